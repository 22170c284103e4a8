"""What is shown while runs are at work: on a terminal a table that is drawn again, elsewhere a line for each epoch."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from statistics import mean, median

from fastalign.bench.quiet import Pause, a_benchmark_measures
from fastalign.papers.reproduce.jobs import Job, Target
from fastalign.papers.reproduce.result import in_measure
from fastalign.papers.runs.progress import WAITS
from fastalign.papers.runs.side_by_side import Queue


def viewer(target: Target, queue: Queue[Job]) -> Callable[[], None]:
    """A function that shows how far the queue has come."""
    return _LiveTable(target, queue).show if sys.stdout.isatty() else _Lines(target, queue).show


class _Lines:
    """A line for each epoch and each failure since the last look."""

    def __init__(self, target: Target, queue: Queue[Job]) -> None:
        self._target = target
        self._queue = queue
        self._shown = {job: len(history) for job, history in queue.histories.items()}
        self._failures: set[Job] = set()
        self._pause = Pause(lambda: print(WAITS, flush=True))

    def show(self) -> None:
        """Print what is new."""
        self._pause.is_due()
        for job, history in self._queue.histories.items():
            name = f"{job.row} {job.column.name} seed {job.seed}"
            for metrics in history[self._shown[job] :]:
                value = in_measure(metrics.test_error, self._target.measure)
                print(
                    f"{name}: epoch {metrics.epoch}/{job.epochs}, test {self._target.measure} {value:.2f} %", flush=True
                )
            self._shown[job] = len(history)
            if job in self._queue.failures and job not in self._failures:
                self._failures.add(job)
                print(f"{name}: {self._queue.failures[job]}", flush=True)


class _LiveTable:
    """A line for each row and a column for each rule: epochs done, the last value, the time left."""

    def __init__(self, target: Target, queue: Queue[Job]) -> None:
        self._target = target
        self._queue = queue
        self._drawn = 0

    def show(self) -> None:
        """Draw the table over the one that was drawn last."""
        size = shutil.get_terminal_size()
        lines = [line[: size.columns - 1] for line in self.lines()][: size.lines - 1]
        up = f"\x1b[{self._drawn}F" if self._drawn else ""
        sys.stdout.write(f"{up}\x1b[J" + "\n".join(lines) + "\n")
        sys.stdout.flush()
        self._drawn = len(lines)

    def lines(self) -> list[str]:
        """The table as it stands."""
        queue, jobs = self._queue, list(self._queue.histories)
        rows = list(dict.fromkeys(job.row for job in jobs))
        columns = list(dict.fromkeys(job.column for job in jobs))
        grid = [["", *(column.label for column in columns)]]
        for row in rows:
            cells = [[job for job in jobs if job.row == row and job.column == column] for column in columns]
            grid.append([row, *(self._cell(seeds) for seeds in cells)])
        if len(columns) > 5:  # More rules than any of the papers' tables has stand one below the other.
            grid = [list(line) for line in zip(*grid, strict=True)]
        widths = [max(len(line[i]) for line in grid) for i in range(len(grid[0]))]
        done = sum(job.is_done(history) for job, history in queue.histories.items())
        summary = f"runs: {done} of {len(jobs)} done, {len(queue.running)} at work"
        if queue.failures:
            summary += f", {len(queue.failures)} failed"
        if a_benchmark_measures():
            summary += f", {WAITS}"
        return [
            *("  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)) for line in grid),
            f"epochs done, test {self._target.measure} (%), time left; {summary}",
        ]

    def _cell(self, jobs: Sequence[Job]) -> str:
        """All seeds of a cell together."""
        if not jobs:
            return ""
        if any(job in self._queue.failures for job in jobs):
            return "failed"
        histories = [self._queue.histories[job] for job in jobs]
        begun = [history for history in histories if history]
        if not begun:
            return "begun" if any(job in self._queue.running for job in jobs) else "waiting"
        value = in_measure(mean(history[-1].test_error for history in begun), self._target.measure)
        done = f"{sum(map(len, begun))}/{sum(job.epochs for job in jobs)} {value:.2f}"
        missing = sum(
            job.epochs - len(history) for job, history in zip(jobs, histories, strict=True) if not job.is_done(history)
        )
        seconds = missing * median(metrics.seconds for history in begun for metrics in history)
        return f"{done} {_duration(seconds)}" if missing else f"{done} done"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
