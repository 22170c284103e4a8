"""What a table or a figure asks for: one run for each row, column and seed, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fastalign.errors import RunError, UserError
from fastalign.papers.experiments import experiment
from fastalign.papers.experiments.published import Column
from fastalign.papers.runs.folder import Config, RunFolder
from fastalign.papers.runs.metrics import Metrics
from fastalign.papers.runs.recipe import Recipe
from fastalign.papers.runs.side_by_side import train_arguments


class Target(Protocol):
    """What can be reproduced: a table, or a figure."""

    @property
    def name(self) -> str:
        """As the command has it."""

    @property
    def title(self) -> str:
        """As a person reads it."""

    @property
    def measure(self) -> str:
        """What is shown while the runs are at work, "error" or "accuracy" on the test set."""

    @property
    def cells(self) -> Sequence[tuple[str, Column]]:
        """Experiment and column of every run, but for the seeds."""

    @property
    def usual_rows(self) -> Sequence[str] | None:
        """The names of the rows that are meant where none is named; None for all."""

    @property
    def usual_seeds(self) -> int:
        """How many seeds are meant where no number is given."""


@dataclass(frozen=True, eq=False)
class Job:
    """One run, wanted for so many epochs."""

    recipe: Recipe
    column: Column
    seed: int
    epochs: int
    folder: RunFolder
    data_directory: str | None

    @property
    def row(self) -> str:
        """The name of its row."""
        return row_name(self.recipe.name)

    def arguments(self) -> list[str]:
        """Those of `fastalign train`."""
        given = {
            "seed": self.seed,
            "epochs": self.epochs,
            "freeze_filters": self.column.freeze_filters,
            "observe": self.column.observe,
        }
        return train_arguments(
            self.recipe.name,
            self.column.rule,
            given,
            out=self.folder.path,
            data_directory=self.data_directory,
            resume=True,
        )

    def history(self) -> list[Metrics]:
        """The wanted epochs that are done, as far as the run has come."""
        return self.folder.metrics.read()[: self.epochs]

    def is_done(self, history: Sequence[Metrics]) -> bool:
        """Whether these epochs are all that is wanted, or the training error has come down to the recipe's limit."""
        return len(history) >= self.epochs or self.recipe.is_good_enough(history)

    def check(self) -> None:
        """See that what the folder holds is a run of this recipe, or nothing.

        Raises:
            RunError: it is something else.
        """
        config = self.folder.saved_config(resume=True)
        if config is not None and not is_run_of(config, self.recipe, self.column, self.seed):
            raise RunError(
                f"{self.folder.path} holds a run with other settings than {self.recipe.name} has: give another --out"
            )


def is_run_of(config: Config, recipe: Recipe, column: Column, seed: int) -> bool:
    """Whether the configuration in a run's folder is today's recipe with its own settings."""
    expected = {
        "seed": seed,
        "rule": column.rule,
        "lr": recipe.for_rule(column.rule).learning_rate,
        "batch_size": recipe.batch_size,
        "dtype": "float32",
        "freeze_filters": column.freeze_filters,
        **({"observe": True} if column.observe else {}),
    }
    found = {name: getattr(config.settings, name) for name in expected}
    return found == expected and recipe.is_saved_as(config.recipe, column.rule)


def row_name(experiment_name: str) -> str:
    """The name of a row: the experiment's without its paper."""
    return experiment_name.partition("/")[2]


def jobs_of(
    target: Target,
    *,
    rows: Sequence[str] | None,
    columns: Sequence[str] | None,
    seeds: int | None,
    epochs: int | None,
    out: Path,
    data_directory: str | None = None,
) -> list[Job]:
    """Every run of a table or a figure, the first seed of all cells before the second of any.

    rows, columns: their names; None for the usual rows and for all columns. seeds: None for as many as is usual.
    epochs: None for each recipe's own.

    Raises:
        UserError: a name that the target does not have, or a number below 1.
        RunError: a folder holds something else than the run that belongs there.
    """
    _check_names("rows", rows, [row_name(name) for name, _ in target.cells])
    _check_names("rules", columns, [column.name for _, column in target.cells])
    for name, number in (("seeds", seeds), ("epochs", epochs)):
        if number is not None and number < 1:
            raise UserError(f"{name} is {number}, expected at least 1")
    rows = target.usual_rows if rows is None else rows
    jobs = [
        Job(
            experiment(name),
            column,
            seed,
            epochs or experiment(name).epochs,
            RunFolder(out / name / column.folder / f"seed-{seed}"),
            data_directory,
        )
        for seed in range(target.usual_seeds if seeds is None else seeds)
        for name, column in target.cells
        if (rows is None or row_name(name) in rows)
        and (columns is None or column.name in columns)
        and (experiment(name).architecture.convolutions or not column.freeze_filters)
    ]
    if not jobs:
        raise UserError("these rows have none of these rules")
    for job in jobs:
        job.check()
    return jobs


def _check_names(option: str, given: Sequence[str] | None, known: Sequence[str]) -> None:
    for name in given or ():
        if name not in known:
            raise UserError(f"{option}: there is no {name!r}, expected some of {', '.join(dict.fromkeys(known))}")
