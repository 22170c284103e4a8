"""The command `fastalign reproduce`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from fastalign.analysis.plots import FORMATS
from fastalign.bench.atomic import write_atomically
from fastalign.errors import MissingDataError, MissingPackageError, RunError, UserError
from fastalign.papers import data
from fastalign.papers.experiments.published import TABLES, Table
from fastalign.papers.reproduce import figure_text, render
from fastalign.papers.reproduce.figure import Figure, runs_of
from fastalign.papers.reproduce.figures import FIGURES
from fastalign.papers.reproduce.jobs import Job, jobs_of
from fastalign.papers.reproduce.live import viewer
from fastalign.papers.reproduce.table import by_cell, draw_table
from fastalign.papers.runs.metrics import Metrics
from fastalign.papers.runs.side_by_side import Queue, most_side_by_side

Histories = Mapping[Job, Sequence[Metrics]]


def reproduce(
    name: str,
    *,
    rows: Sequence[str] | None,
    columns: Sequence[str] | None,
    seeds: int | None,
    epochs: int | None,
    data_directory: str | None,
    out: Path,
    side_by_side: int | None,
) -> None:
    """Run what is missing of a table or a figure, print it, and write it into `out` as Markdown, CSV, PNG and SVG.

    Each run has its folder below `out`; what is there is used, what was interrupted goes on where it stopped. Where no
    rows are named, those whose data are missing are left out, and it is said.

    Raises:
        UserError: there is no such table, figure, row or rule, the data of a row that is named or of all rows are
            missing, a folder cannot be used, or a run failed.
        KeyboardInterrupt: the runs were stopped; what was done is saved.
    """
    target = TABLES.get(name) or FIGURES.get(name)
    if target is None:
        raise UserError(f"there is no {name!r}, expected one of {', '.join([*TABLES, *FIGURES])}")
    if side_by_side is not None and side_by_side < 1:
        raise UserError(f"jobs is {side_by_side}, expected at least 1")
    jobs = jobs_of(
        target, rows=rows, columns=columns, seeds=seeds, epochs=epochs, out=out, data_directory=data_directory
    )
    jobs, left_out = _with_data(jobs, data_directory, every=rows is not None)
    for line in left_out:
        print(line, file=sys.stderr)
    queue = Queue(jobs, side_by_side or most_side_by_side("cuda" if torch.cuda.is_available() else "cpu"))
    queue.run(viewer(target, queue))
    if isinstance(target, Table):
        text, contents, draw = _of_table(target, queue.histories)
    else:
        text, contents, draw = _of_figure(target, queue.histories, data_directory)
    print("\n".join(["", text, *left_out]))
    try:
        for format in FORMATS if any(queue.histories.values()) else ():
            contents[format] = draw(format)
    except MissingPackageError as error:
        print(f"no figure: {error}", file=sys.stderr)
    for suffix, content in contents.items():
        path = out / f"{name}.{suffix}"
        write_atomically(path, content)
        print(path)
    if queue.failures:
        first = next(iter(queue.failures))
        raise RunError(
            f"{len(queue.failures)} of {len(jobs)} runs failed; {first.folder.path}: {queue.failures[first]}"
        )


def _with_data(jobs: Sequence[Job], data_directory: str | None, every: bool) -> tuple[list[Job], list[str]]:
    """The jobs that can run, and for each data set that is missing a line that says which rows are left out.

    every: all must.

    Raises:
        UserError: none can, or not every one that must, or data are damaged: one error about it, before anything is
            begun, is enough.
    """
    wanting = [job for job in jobs if not job.is_done(job.history())]
    tried = {name: _missing_data(name, data_directory) for name in sorted({job.recipe.dataset for job in wanting})}
    missing = {name: error for name, error in tried.items() if error is not None}
    left = [job for job in wanting if job.recipe.dataset in missing]
    if missing and (every or len(left) == len(jobs)):
        raise next(iter(missing.values()))
    rows = {name: dict.fromkeys(job.row for job in left if job.recipe.dataset == name) for name in missing}
    lines = [f"left out: {', '.join(rows[name])}: {error}" for name, error in missing.items()]
    return [job for job in jobs if job not in left], lines


def _missing_data(dataset: str, directory: str | None) -> MissingDataError | None:
    try:
        data.load(dataset, directory)
    except MissingDataError as error:
        return error
    return None


# The text for a terminal, the contents of files by their suffix, and a function that draws in a format.
Results = tuple[str, dict[str, bytes], Callable[[str], bytes]]


def _of_table(table: Table, histories: Histories) -> Results:
    cells = by_cell(histories)
    contents = {"md": render.as_markdown(table, cells).encode(), "csv": render.as_csv(table, cells).encode()}
    return render.as_text(table, cells), contents, lambda format: draw_table(table, cells, format)


def _of_figure(figure: Figure, histories: Histories, data_directory: str | None) -> Results:
    runs = runs_of(figure, histories, data_directory)
    contents = {
        "md": figure_text.as_markdown(figure, runs).encode(),
        "csv": figure_text.as_csv(figure, runs).encode(),
    }
    return figure_text.as_text(figure, runs), contents, lambda format: figure.draw(figure, runs, format)
