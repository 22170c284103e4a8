"""The former place of `fastalign.papers.runs` and `fastalign.step`."""

from fastalign.former import alias

for _name in ("metrics", "progress", "recipe", "run"):
    alias(f"{__name__}.{_name}", f"fastalign.papers.runs.{_name}")
for _name in ("losses", "train_step"):
    alias(f"{__name__}.{_name}", f"fastalign.step.{_name}")
