"""Writes the tables of docs/performance.md and of the README, and their plots, from the committed results.

    python benchmarks/render.py [--check]

A table stands between `<!-- NAME -->` and `<!-- end -->`. --check: change nothing, and fail where a page differs.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastalign.bench import tables
from fastalign.bench.ops import RIVALS
from fastalign.bench.plots import plots
from fastalign.bench.steps import BP, COMPILED_BP, FLOOR_WITH_PASSES
from fastalign.bench.summary import best_plain, ratio, ratio_to_parts
from fastalign.tables import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "docs" / "performance.md", ROOT / "README.md")
IMAGES = ROOT / "docs" / "images"
GROUPS = ("ops", "steps", "memory", "scaling")

Results = Mapping[str, Mapping[str, Any]]


def results() -> dict[str, dict[str, Any]]:
    """The committed results by group; one that is not there leaves its tables as they are."""
    files = {group: RESULTS / f"{group}-cpu.json" for group in GROUPS}
    found = {group: json.loads(file.read_text()) for group, file in files.items() if file.exists()}
    return {group: result for group, result in found.items() if "rows" in result}


def measured(found: Results) -> str:
    """Machine, commit and command of each group."""
    lines = ["| | machine | torch | threads | processes | commit | command |", "|---|---|---|---:|---:|---|---|"]
    for group, result in found.items():
        machine, commit = result["machine"], (result["commit"] or "")[:10]
        changed = " with changes" if result["uncommitted_changes"] else ""
        lines.append(
            f"| {group} | {machine['processor']}, {machine['cores']} cores | {result['torch']} | {result['threads']} "
            f"| {result['processes']} | {commit}{changed} | `{result['command']}` |"
        )
    return "\n".join(lines)


def targets(found: Results) -> str:
    """What was aimed at, what was reached, and how far from the best that torch does: the ratios over all shapes."""
    ops, steps, memory = (found[group]["rows"] for group in ("ops", "steps", "memory"))
    head = ("work", "against", "target", "reached", "", "× its parts", "× best of torch")
    lines = ["| " + " | ".join(head) + " |", "|---|---|---:|---|---|---|---|"]

    def line(
        work: str,
        against: str,
        most: float,
        reached: list[float],
        by_torch: Iterable[float | None] = (),
        by_parts: Iterable[float | None] = (),
        unit: str = "",
    ) -> None:
        """unit: of what is reached, which is a ratio where there is none, else what is more than the other takes."""
        if not reached:
            return
        inside = sum(value <= most for value in reached)
        verdict = "yes" if inside == len(reached) else f"{inside} of {len(reached)}" if inside else "no"
        target, form = (f"{most:g} {unit} more", f"{{:+.0f}} {unit}") if unit else (f"{most}", "{:.2f}")
        beside = (_range(_sorted(ratios), "{:.2f}") for ratios in (by_parts, by_torch))
        shown = _range(sorted(reached), form), verdict, *beside
        lines.append(f"| {work} | {against} | ≤ {target} | {' | '.join(shown)} |")

    def of_op(
        work: str,
        op: str,
        dtype: str,
        against: str,
        most: float,
        shapes: Callable[[str], bool],
        rival: str = "floor",
        unit: str = "",
    ) -> None:
        rows = [row for row in ops if row["op"] == op and row["dtype"] == dtype and shapes(row["shape"])]
        by_torch = [max(_sorted(ratio(row, "fastalign", way) for way in RIVALS if way != "floor")) for row in rows]
        ratios = _sorted(ratio(row, "fastalign", rival) for row in rows)
        reached = [_over(row, "fastalign", rival) for row in rows] if unit else ratios
        by_parts = [ratio_to_parts(row, "fastalign") for row in rows]
        line(f"{work}, {dtype}", against, most, reached, by_torch, by_parts, unit)

    for dtype in ("float32", "bfloat16"):
        of_op("`dfa_projection`, C ≤ 100", "feedback_term", dtype, "floor", 1.3, _few_classes)
        of_op(
            "`dfa_projection`, C ≤ 100", "feedback_term", dtype, "bare `mm(e, Bᵀ)`", 1.0, _few_classes, "bare product"
        )
        for op in ("dfa_linear_update", "pepita_linear_update"):
            of_op(f"`{op}`, below 64 × 784 × 1024", op, dtype, "bare `mm`", 15, lambda s: _size(s) < _SMALL, unit="µs")
            of_op(f"`{op}`, from there on", op, dtype, "bare `mm`", 1.12, lambda s: _SMALL <= _size(s) < _LARGE)
            of_op(f"`{op}`, from 256 × 1024 × 1024 on", op, dtype, "bare `mm`", 1.08, lambda s: _size(s) >= _LARGE)
        op, bare = "pepita_conv2d_update", "bare `conv2d_weight`"
        of_op(f"`{op}`, 96 × 15² → 128", op, dtype, bare, 1.03, lambda s: "96 × 15²" in s)
        of_op(f"`{op}`, others", op, dtype, bare, 1.0, lambda s: "96 × 15²" not in s)
    for rule, target in (("dfa", 1.15), ("pepita", 1.3)):
        for row in steps:
            if row["op"] == rule and row["shape"].startswith("784-1024" if rule == "pepita" else "784"):
                reached = _sorted([ratio(row, "fastalign step", "floor")])
                by_torch = [ratio(row, "fastalign step", best_plain(row))]
                by_parts = [ratio(row, "fastalign step", FLOOR_WITH_PASSES)]
                line(f"step, {rule.upper()}, {row['shape']}", "floor", target, reached, by_torch, by_parts)
    for shape in dict.fromkeys(row["shape"] for row in steps if row["shape"].startswith("64")):
        rows = [row for row in steps if row["shape"] == shape]
        by_torch = [ratio(row, "fastalign step", best_plain(row)) for row in rows]
        by_parts = [ratio(row, "fastalign step", FLOOR_WITH_PASSES) for row in rows]
        for floor in ("floor", FLOOR_WITH_PASSES):
            reached = [_over(row, "fastalign step", floor) for row in rows]
            line(f"step, each rule, {shape}", floor, 50, reached, by_torch, by_parts, "µs")
    for rule, network, rival, target in (
        ("dfa", "784-1024-10", COMPILED_BP, 0.8),
        ("dfa", "784-800⁴-10", COMPILED_BP, 0.7),
        ("dfa", "784-240¹⁰⁰-10", BP, 0.55),
        ("pepita", "784-1024-10", COMPILED_BP, 0.9),
    ):
        for row in steps:
            if row["op"] == rule and row["shape"].startswith(network):
                reached = _sorted([ratio(row, "fastalign step", rival)])
                line(f"step, {rule.upper()}, {row['shape']}", rival, target, reached)
    deepest = [row for row in memory if row["depth"] == max(r["depth"] for r in memory)]
    for row in deepest:
        if "recompute" in row["peak_bytes"]:
            share = row["peak_bytes"]["recompute"] / row["two_layers"]
            work = f"memory, recomputed, {row['op'].upper()}, {row['shape']}"
            line(work, "two layers' activations", 1.2, [share])
    return "\n".join(lines)


def _sorted(values: Iterable[float | None]) -> list[float]:
    return sorted(value for value in values if value is not None)


def _range(values: Sequence[float], form: str) -> str:
    return " … ".join(dict.fromkeys(form.format(value) for value in (*values[:1], *values[-1:])))


def _over(row: Mapping[str, Any], own: str, other: str) -> float:
    """The µs by which one variant takes longer than the other."""
    return float(row["variants"][own]["median_us"] - row["variants"][other]["median_us"])


def _few_classes(shape: str) -> bool:
    return int(shape.rpartition("= ")[2]) <= 100


def _size(shape: str) -> int:
    """The multiplications of a product, as in "64 × 784 × 1024"."""
    return math.prod(map(int, shape.split(" × ")))


_SMALL, _LARGE = _size("64 × 784 × 1024"), _size("256 × 1024 × 1024")


def apart(found: Results) -> str:
    """The ops of the targets beside what they consist of."""
    wanted = ("feedback_term", "dfa_linear_update", "pepita_linear_update", "pepita_conv2d_update")
    head = ("op", "shape", "dtype", "its parts, µs", "together", "fastalign", "× together")
    body = []
    for row in found["ops"]["rows"]:
        if row["op"] in wanted:
            median = {name: variant["median_us"] for name, variant in row["variants"].items()}
            parts = " + ".join(f"{part} {tables.figure(median[part])}" for part in row["parts"])
            together = sum(median[part] for part in row["parts"])
            times = tables.times(ratio_to_parts(row, "fastalign"))
            figures = (tables.figure(together), tables.figure(median["fastalign"]), times)
            body.append((row["op"], tables.short(row["shape"]), row["dtype"], parts, *figures))
    return Table("", head, body, 4).for_markdown()


def readme(found: Results) -> str:
    """Each rule's step on three networks."""
    head = ("network", "rule", "fastalign", "× best plain PyTorch", "× BP by torch", "× BP compiled", "× floor")
    body = [
        (
            row["shape"],
            row["op"].upper(),
            f"{tables.figure(row['variants']['fastalign step']['median_us'] / 1000)} ms",
            *(
                tables.times(ratio(row, "fastalign step", other))
                for other in (best_plain(row), BP, COMPILED_BP, "floor")
            ),
        )
        for row in found["steps"]["rows"]
        if row["op"] in ("bp", "dfa", "pepita") and row["shape"].startswith("784") and row["dtype"] == "float32"
    ]
    return Table("", head, body, 2).for_markdown()


def seeds() -> str:
    """Several seeds side by side and one after the other: in all, and without starts and tests."""
    result = json.loads((RESULTS / "seeds-cpu.json").read_text())
    at_a_time = {"one after the other": 1, "side by side": result["at_a_time"]}
    ways = {way: (w["seconds"], sum(w["epochs"]) / at_a_time[way]) for way, w in result["ways"].items()}
    alone = ways["one after the other"]
    head = ("", "in all", "×", "epochs alone", "×")
    body = [
        (way, f"{both[0]:.0f} s", f"{both[0] / alone[0]:.2f}", f"{both[1]:.0f} s", f"{both[1] / alone[1]:.2f}")
        for way, both in ways.items()
    ]
    machine = f"{result['machine']['processor']}, {result['machine']['cores']} cores, {result['threads']} threads"
    what = (
        f"{result['seeds']} runs of `{result['experiment']}` by {result['rule'].upper()}, {result['epochs']} epochs "
        f"each, on {machine}; commit {result['commit'][:10]}, `{result['command']}`:"
    )
    return f"{what}\n\n{Table('', head, body, 1).for_markdown()}"


def curiosity(found: Results) -> str:
    """The update of a convolution by a loop over positions."""
    body = [
        (
            row["shape"],
            row["dtype"],
            f"{tables.figure(row['variants']['position by position']['median_us'] / 1000)} ms",
            f"{tables.figure(row['variants']['fastalign']['median_us'] / 1000)} ms",
        )
        for row in found["ops"]["rows"]
        if "position by position" in row["variants"]
    ]
    return Table("", ("shape", "dtype", "position by position", "fastalign"), body, 2).for_markdown()


def render(page: str, found: Results) -> str:
    """The page with its tables made anew."""
    images = "images" if "# Performance" in page else "docs/images"
    makers: dict[str, tuple[tuple[str, ...], Callable[[], str]]] = {
        "measured": ((), lambda: measured(found)),
        "targets": (("ops", "steps", "memory"), lambda: targets(found)),
        "losses": (("ops", "steps"), lambda: losses(found)),
        "readme": (("steps",), lambda: _with_image("steps", images, readme(found))),
        "apart": (("ops",), lambda: apart(found)),
        "curiosity": (("ops",), lambda: curiosity(found)),
        "seeds": ((), seeds),
        "memory": (("memory",), lambda: _table(found, "memory")),
        "ops": (("ops",), lambda: _with_image("roofline", images, _table(found, "ops"))),
        "steps": (("steps",), lambda: _with_image("steps", images, _table(found, "steps"))),
        "scaling": (("scaling",), lambda: _with_image("scaling", images, _table(found, "scaling"))),
    }

    def table(match: re.Match[str]) -> str:
        needs, make = makers[match[1]]
        if any(group not in found for group in needs):
            return match[0]
        return f"<!-- {match[1]} -->\n\n{make()}\n\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def losses(found: Results) -> str:
    """The rows of ops and steps in which a rival is faster."""
    return tables.losses_table([*found["ops"]["rows"], *found["steps"]["rows"]]).for_markdown()


ALTERNATIVES = {
    "roofline": "Roofline of the ops with products",
    "steps": "Time of a step of each rule, by network, beside plain PyTorch and BP by torch",
    "scaling": "Time and memory of a step against depth, width, batch and classes",
}


def _with_image(name: str, folder: str, table: str) -> str:
    return f"![{ALTERNATIVES[name]}]({folder}/bench-{name}.png)\n\n{table}"


def _table(found: Results, group: str) -> str:
    return tables.tables(found[group])[0].for_markdown()


def main(arguments: list[str]) -> int:
    """Write or check the pages."""
    found = results()
    for page in PAGES:
        text = page.read_text()
        made = render(text, found)
        if "--check" in arguments and made != text:
            print(f"{page.relative_to(ROOT)} is not what its results say: python benchmarks/render.py", file=sys.stderr)
            return 1
        if "--check" not in arguments:
            page.write_text(made)
    if "--check" not in arguments:
        for result in found.values():
            for name, image in plots(result).items():
                (IMAGES / f"bench-{name}.png").write_bytes(image)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
