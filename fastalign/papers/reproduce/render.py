"""A table in the paper's layout, for terminals, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from statistics import mean

from fastalign import tables
from fastalign.papers.experiments import experiment
from fastalign.papers.experiments.published import Column, Published, Table
from fastalign.papers.reproduce.jobs import row_name
from fastalign.papers.reproduce.result import Cell, Histories, cell
from fastalign.papers.runs.recipe import Recipe

CSV_COLUMNS = (
    *("table", "experiment", "column", "measure"),
    *("ours", "deviation", "train_error", "seeds", "fewest_epochs", "most_epochs", "epochs_in_paper", "stopped_early"),
    *("published", "published_deviation", "published_train_error", "published_from_memory"),
    *("difference", "verdict"),
)
WITHIN = (
    "within, outside: twice the joint standard deviation (ours of one seed counted as none); "
    "short: fewer epochs than in the paper"
)
TRAIN_ERROR = "in brackets: the training error; ours is gathered while training, theirs is given in some cells"
FROM_MEMORY = "† from memory of the paper, to be checked against the PDF"


def as_text(table: Table, histories: Histories) -> str:
    """For a terminal."""
    head, *rows = _laid_out(table, histories).lines(gap="  ")
    height = len(_kinds(table))
    blocks = ["\n".join(rows[start : start + height]) for start in range(0, len(rows), height)]
    return "\n\n".join([f"{_title(table)}\n\n{head}\n{blocks[0]}", *blocks[1:], "\n".join(_notes(table))]) + "\n"


def as_markdown(table: Table, histories: Histories) -> str:
    """With the title as a paragraph before it."""
    rows = _laid_out(table, histories).for_markdown()
    return "\n".join([f"**{_title(table)}**", "", rows, "", *(f"{note}  " for note in _notes(table))]) + "\n"


def as_csv(table: Table, histories: Histories) -> str:
    """One line for each row and column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for name, column, found in _cells(table, histories):
        published = found.published or Published("", None)
        ours = [""] * 3
        if found.values:
            ours = [f"{found.mean:.4f}", _number(found.deviation, 4), f"{mean(found.train_errors):.4f}"]
        writer.writerow(
            [
                *(table.name, name, column.name, table.measure),
                *ours,
                *(len(found.values), *found.epochs, experiment(name).epochs, found.stopped),
                *(_number(published.mean, 4), _number(published.deviation, 4), _number(published.train_error, 4)),
                "" if found.published is None else str(published.from_memory).lower(),
                *(_number(found.difference, 4), found.verdict),
            ]
        )
    return file.getvalue()


def _cells(table: Table, histories: Histories) -> list[tuple[str, Column, Cell]]:
    """Every cell of the rows and columns in which something was asked for."""
    return [
        (name, column, cell(table, experiment(name), column, histories))
        for name in table.rows
        for column in table.columns
        if (name, column.name) in histories
    ]


def _laid_out(table: Table, histories: Histories) -> tables.Table:
    head, *body = _lines(table, histories)
    return tables.Table(_title(table), head, body, texts=len(head))


def _lines(table: Table, histories: Histories) -> list[list[str]]:
    """The header, and for each row of the table a line of each kind."""
    cells = _cells(table, histories)
    columns = [column for column in table.columns if any(column == other for _, other, _ in cells)]
    lines = [["", "", *(column.label for column in columns)]]
    for name in dict.fromkeys(name for name, _, _ in cells):
        found = {
            column.name: _described(table, experiment(name), column, cell, histories)
            for row, column, cell in cells
            if row == name
        }
        for number, kind in enumerate(_kinds(table)):
            values = [found[column.name][number] if column.name in found else "" for column in columns]
            lines.append(["" if number else row_name(name), kind, *values])
    return lines


def _kinds(table: Table) -> list[str]:
    """The names of a row's lines."""
    after = [] if table.also_after is None else [f"after {table.also_after} epochs"]
    return ["ours", *after, "epochs", "published", "difference"]


def _described(table: Table, recipe: Recipe, column: Column, found: Cell, histories: Histories) -> list[str]:
    """A cell in words, a line of each kind."""
    ours = [_ours(table, found)]
    if table.also_after is not None:
        earlier = cell(table, recipe, column, histories, table.also_after)
        ours.append(_ours(table, earlier) if earlier.values else "")
    return [*ours, _epochs(found, recipe), _published(found.published), _difference(found)]


def _ours(table: Table, found: Cell) -> str:
    if not found.values:
        return "no run"
    text = _with_deviation(found.mean, found.deviation)
    return f"{text} ({mean(found.train_errors):.2f})" if _gives_train_errors(table) else text


def _epochs(found: Cell, recipe: Recipe) -> str:
    if not found.values:
        return "no run"
    fewest, most = found.epochs
    done = str(most) if fewest == most else f"{fewest}–{most}"
    count = len(found.values)
    seeds = "1 seed" if count == 1 else f"{count} seeds"
    return f"{done} of {recipe.epochs}, {seeds}{why_early(recipe, found.stopped, count)}"


def _difference(found: Cell) -> str:
    if not found.values:
        return "no run"
    if found.difference is None:
        return ""
    return f"{found.difference:+.2f} {found.verdict}".strip().replace("-", "−")


def why_early(recipe: Recipe, stopped: int, runs: int) -> str:
    """Why so many of the runs ended before their last epoch, to stand after the epochs; nothing where none did."""
    which = "" if stopped == runs else f"{stopped} "
    return f", {which}stopped at ≤ {recipe.stop_at_train_error:g} % training error" if stopped else ""


def _published(published: Published | None) -> str:
    return "not in the paper" if published is None else published.text + " †" * published.from_memory


def _with_deviation(value: float, deviation: float | None) -> str:
    return f"{value:.2f}" if deviation is None else f"{value:.2f} ± {deviation:.2f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _title(table: Table) -> str:
    return f"{table.title}, test {table.measure} (%), mean ± standard deviation over seeds"


def _gives_train_errors(table: Table) -> bool:
    """Of the tables of errors; B's accuracies have none."""
    return table.measure == "error"


def _notes(table: Table) -> Sequence[str]:
    notes = [WITHIN]
    if _gives_train_errors(table):
        notes.append(TRAIN_ERROR)
    if table.is_from_memory:
        notes.append(FROM_MEMORY)
    return [*notes, table.note] if table.note else notes
