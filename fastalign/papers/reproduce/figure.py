"""A figure: a set of labelled runs, what is measured of each, and how they are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from fastalign.analysis.plots import Comparison, comparisons
from fastalign.nn import Sequential
from fastalign.papers import data
from fastalign.papers.data import Splits
from fastalign.papers.experiments import experiment
from fastalign.papers.experiments.published import USUAL_SEEDS, Column
from fastalign.papers.reproduce.jobs import Job, row_name
from fastalign.papers.runs.checkpoint import load_checkpoint
from fastalign.papers.runs.finished import trained_network
from fastalign.papers.runs.folder import RunFolder
from fastalign.papers.runs.metrics import Metrics


@dataclass(frozen=True)
class Run:
    """One run of a figure.

    kept: what was measured of it when it was collected.
    """

    experiment: str
    column: Column
    seed: int
    history: Sequence[Metrics]
    folder: RunFolder | None = None
    data_directory: str | None = None
    kept: Mapping[str, float] | None = None

    @cached_property
    def trained(self) -> tuple[Sequential, Splits]:
        """Its network after the last epoch, and the data that it was trained on. For runs that have a folder."""
        assert self.folder is not None
        recipe = experiment(self.experiment)
        return trained_network(recipe, self.column.rule, self.folder, data.load(recipe.dataset, self.data_directory))

    @cached_property
    def weights(self) -> dict[int, Tensor]:
        """By layer, its weights after the last epoch; none where the run has left no checkpoint."""
        if self.folder is None or not self.folder.checkpoint.exists():
            return {}
        model = load_checkpoint(self.folder.checkpoint)["model"]
        return dict(enumerate((t for name, t in model.items() if name.endswith("weight") and t.dim() > 1), start=1))


Runs = Mapping[str, Sequence[Run]]
"""By label, the runs of every seed that have come to the end of an epoch."""


@dataclass(frozen=True)
class Quantity:
    """What a run has after each epoch, its unit in the name; `reference` is a value to compare it with."""

    name: str
    of: Callable[[Metrics], float]
    reference: float | None = None


def observed(observation: str, layer: int, name: str, reference: float | None = None) -> Quantity:
    """What an observer told of a layer, NaN where it told nothing."""
    return Quantity(name, lambda metrics: metrics.observations.get(observation, {}).get(layer, math.nan), reference)


TEST_ERROR = Quantity("test error (%)", lambda metrics: metrics.test_error)
TEST_ACCURACY = Quantity("test accuracy (%)", lambda metrics: 100 - metrics.test_error)
TRAIN_ERROR = Quantity("training error (%)", lambda metrics: metrics.train_error)


def last_values(figure: Figure, run: Run) -> dict[str, float]:
    """Every quantity of the figure after the last epoch."""
    return {quantity.name: quantity.of(run.history[-1]) for quantity in figure.quantities}


def draw_curves(figure: Figure, runs: Runs, format: str) -> bytes:
    """The figure's quantities over the epochs: a panel for each experiment and quantity, a colour for each column."""
    experiments = list(dict.fromkeys(seeds[0].experiment for seeds in runs.values()))
    panels = {
        (quantity.name if len(experiments) == 1 else f"{row_name(name)}\n{quantity.name}"): Comparison(
            {
                seeds[0].column.label: [[quantity.of(m) for m in run.history] for run in seeds]
                for seeds in runs.values()
                if seeds[0].experiment == name
            },
            quantity=quantity.name,
            reference=quantity.reference,
            events=figure.events,
        )
        for name in experiments
        for quantity in figure.quantities
    }
    return comparisons(panels, "", figure.title, format, columns=len(figure.quantities) if len(experiments) > 1 else 3)


@dataclass(frozen=True)
class Figure:
    """A figure of a paper, or a statement in its text.

    cells: experiment and column of every run, but for the seeds; labels are the columns', with the row's name where
    columns of one label stand in several rows. measured: the line of a run in the figure's table, by name with unit.
    shows_networks: whether it is drawn from trained networks, and not from what is kept of runs. published: by label
    and by the name of what is measured. events: see `Comparison`. note: what to know beside it.
    """

    name: str
    title: str
    cells: Sequence[tuple[str, Column]]
    quantities: Sequence[Quantity] = (TEST_ERROR,)
    measured: Callable[[Figure, Run], Mapping[str, float]] = last_values
    draw: Callable[[Figure, Runs, str], bytes] = draw_curves
    shows_networks: bool = False
    published: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    events: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    measure: str = "error"
    usual_rows: Sequence[str] | None = None
    usual_seeds: int = USUAL_SEEDS

    def label(self, name: str, column: Column) -> str:
        """Of the runs of this experiment and column."""
        alike = [experiment for experiment, other in self.cells if other.label == column.label]
        return column.label if len(alike) == 1 else f"{column.label}, {row_name(name)}"

    def measures(self, run: Run) -> dict[str, float]:
        """What the figure's table says of a run."""
        return dict(self.measured(self, run) if run.kept is None else run.kept)

    def by_label(self, runs: Sequence[Run]) -> dict[str, list[Run]]:
        """The runs that have come to the end of an epoch, in the order of the figure's cells."""
        found: dict[str, list[Run]] = {}
        for name, column in self.cells:
            begun = [run for run in runs if (run.experiment, run.column) == (name, column) and run.history]
            if begun:
                found[self.label(name, column)] = begun
        return found


def runs_of(figure: Figure, histories: Mapping[Job, Sequence[Metrics]], data_directory: str | None) -> Runs:
    """The runs of a figure from their jobs."""
    return figure.by_label(
        [
            Run(job.recipe.name, job.column, job.seed, history, job.folder, data_directory)
            for job, history in histories.items()
        ]
    )
