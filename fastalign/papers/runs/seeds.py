"""One experiment with several seeds, side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastalign.bench.quiet import Pause
from fastalign.errors import RunError, UserError
from fastalign.papers import data
from fastalign.papers.runs.distributed import Processes
from fastalign.papers.runs.folder import RunFolder
from fastalign.papers.runs.metrics import Metrics
from fastalign.papers.runs.progress import Progress
from fastalign.papers.runs.recipe import Recipe
from fastalign.papers.runs.run import Interrupted, draw
from fastalign.papers.runs.settings import new_settings
from fastalign.papers.runs.side_by_side import Queue, most_side_by_side, train_arguments


@dataclass(frozen=True, eq=False)
class _Run:
    """The run of one seed."""

    seed: int
    folder: RunFolder
    command: Sequence[str]

    def arguments(self) -> Sequence[str]:
        return self.command

    def history(self) -> list[Metrics]:
        return self.folder.metrics.read()

    def is_done(self, history: Sequence[Metrics]) -> bool:
        """Its process sees, and refuses settings that the run does not have."""
        return False


def train_seeds(
    recipe: Recipe,
    rule: str,
    given: Mapping[str, Any],
    seeds: Sequence[int],
    *,
    out: Path,
    data_directory: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress,
) -> dict[int, list[Metrics]]:
    """Train once with each seed, each in `out`/seed-N as `fastalign train --seed N` does; the metrics by seed.

    On the CPU as many at a time as torch has threads, which they share; on a GPU one after the other. `out`/curves.png
    shows all.

    Raises:
        Interrupted: Ctrl-C came; what was done is saved.
        UserError: settings, data or a folder do not allow a run; the others are stopped and saved.
    """
    if Processes.from_environment().count > 1:
        raise UserError("seeds: several cannot be trained under torchrun, whose processes share one run; give --seed")
    settings = new_settings(recipe, rule, dict(given, seed=seeds[0]), 1)
    samples = len(data.load(recipe.dataset, data_directory).train)  # One error about missing data is enough.
    runs = []
    for seed in sorted(seeds):
        folder = RunFolder(out / f"seed-{seed}")
        arguments = train_arguments(
            recipe.name,
            rule,
            dict(given, seed=seed),
            out=folder.path,
            data_directory=data_directory,
            resume=resume,
        )
        runs.append(_Run(seed, folder, arguments))
    queue = Queue(runs, most_side_by_side(settings.device))
    try:
        _follow(queue, settings.epochs, samples, progress)
    except KeyboardInterrupt:
        raise Interrupted from None
    finally:
        progress.close()
    histories = {run.seed: history for run, history in queue.histories.items()}
    draw(out / "curves.png", f"{recipe.name}, {rule.upper()}", {f"seed {s}": h for s, h in histories.items()})
    return histories


def _follow(queue: Queue[_Run], epochs: int, samples: int, progress: Progress) -> None:
    """Run all, and show what they do; the first that fails ends the others."""
    shown = {run: len(history) for run, history in queue.histories.items()}
    progress.start(epochs, samples * len(shown), samples * sum(shown.values()))
    pause = Pause(progress.waits)

    def show() -> None:
        pause.is_due()
        for run, history in queue.histories.items():
            for metrics in history[shown[run] :]:
                progress.advance(samples)
                progress.epoch(metrics, f"seed {run.seed}")
            shown[run] = max(shown[run], len(history))
        for run, failure in queue.failures.items():
            raise RunError(f"seed {run.seed}: {failure}")

    queue.run(show)
