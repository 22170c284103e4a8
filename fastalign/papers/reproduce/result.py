"""A table's numbers: ours beside the published ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from fastalign.papers.experiments.published import Column, Published, Table
from fastalign.papers.runs.metrics import Metrics
from fastalign.papers.runs.recipe import Recipe

Histories = Mapping[tuple[str, str], Sequence[Sequence[Metrics]]]
"""By experiment and column, the epochs of every seed's run."""


@dataclass(frozen=True)
class Cell:
    """Ours and theirs, in the table's measure (%).

    values: of the last epoch of each run; train_errors: of the same epochs, gathered while training. epochs: the fewest
    and the most of any run. stopped: how many runs ended early, for their training error had come down to the recipe's
    limit. is_full: whether every run went as far as the paper's.
    """

    values: tuple[float, ...]
    train_errors: tuple[float, ...]
    epochs: tuple[int, int]
    stopped: int
    is_full: bool
    published: Published | None

    @property
    def mean(self) -> float:
        """Of the seeds."""
        return mean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over the seeds; None with one."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours less theirs; None where either is missing."""
        if not self.values or self.published is None or self.published.mean is None:
            return None
        return self.mean - self.published.mean

    @property
    def verdict(self) -> str:
        """Before the paper's number of epochs "short", then "within" or "outside" of twice the joint deviation."""
        if self.difference is None:
            return ""
        if not self.is_full:
            return "short"
        assert self.published is not None
        if self.published.deviation is None:
            return ""
        spread = math.hypot(self.deviation or 0, self.published.deviation)
        return "within" if abs(self.difference) <= 2 * spread else "outside"


def cell(table: Table, recipe: Recipe, column: Column, histories: Histories, after: int | None = None) -> Cell:
    """The cell of this row and column, from the runs that have begun; or as it stood `after` so many epochs."""
    runs = [history for history in histories.get((recipe.name, column.name), ()) if history]
    if after is not None:
        runs = [history[:after] for history in runs if len(history) >= after]
    lengths = [len(history) for history in runs]
    return Cell(
        values=tuple(in_measure(history[-1].test_error, table.measure) for history in runs),
        train_errors=tuple(history[-1].train_error for history in runs),
        epochs=(min(lengths, default=0), max(lengths, default=0)),
        stopped=sum(map(recipe.stopped_early, runs)),
        is_full=all(len(history) >= recipe.epochs or recipe.is_good_enough(history) for history in runs),
        published=table.rows[recipe.name].get(column.name),
    )


def in_measure(error: float, measure: str) -> float:
    """An error in percent as what the table compares."""
    return 100 - error if measure == "accuracy" else error
