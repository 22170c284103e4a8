"""A table in the paper's layout, for terminals, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from fastalign.experiments import experiment
from fastalign.experiments.published import Column, Published, Table
from fastalign.reproduce.jobs import row_name
from fastalign.reproduce.result import Cell, Histories, cell

LINES = ("ours", "epochs", "published", "difference")
CSV_COLUMNS = (
    *("table", "experiment", "column", "measure"),
    *("ours", "deviation", "seeds", "fewest_epochs", "most_epochs", "epochs_in_paper"),
    *("published", "published_deviation", "published_train_error", "published_from_memory"),
    *("difference", "verdict"),
)
WITHIN = (
    "within, outside: twice the joint standard deviation (ours of one seed counted as none); "
    "short: fewer epochs than in the paper"
)
TRAIN_ERROR = "in brackets: the training error that the paper gives"
FROM_MEMORY = "† from memory of the paper, to be checked against the PDF"


def as_text(table: Table, histories: Histories) -> str:
    """For a terminal."""
    header, *lines = _lines(table, histories)
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]
    rows = ["  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    head = "  ".join(value.ljust(width) for value, width in zip(header, widths, strict=True)).rstrip()
    blocks = ["\n".join(rows[start : start + len(LINES)]) for start in range(0, len(rows), len(LINES))]
    return "\n\n".join([f"{_title(table)}\n\n{head}\n{blocks[0]}", *blocks[1:], "\n".join(_notes(table))]) + "\n"


def as_markdown(table: Table, histories: Histories) -> str:
    """With the title as a paragraph before it."""
    header, *lines = _lines(table, histories)
    rows = ["| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *lines)]
    return "\n".join([f"**{_title(table)}**", "", *rows, "", *(f"{note}  " for note in _notes(table))]) + "\n"


def as_csv(table: Table, histories: Histories) -> str:
    """One line for each row and column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for name, column, found in _cells(table, histories):
        published = found.published or Published("", None)
        ours = [f"{found.mean:.4f}", _number(found.deviation, 4)] if found.values else ["", ""]
        writer.writerow(
            [
                *(table.name, name, column.name, table.measure),
                *ours,
                *(len(found.values), *found.epochs, experiment(name).epochs),
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


def _lines(table: Table, histories: Histories) -> list[list[str]]:
    """The header, and for each row of the table a line of each kind."""
    cells = {(name, column.name): found for name, column, found in _cells(table, histories)}
    columns = [column for column in table.columns if any(key[1] == column.name for key in cells)]
    lines = [["", "", *(column.label for column in columns)]]
    for name in dict.fromkeys(key[0] for key in cells):
        found = [cells.get((name, column.name)) for column in columns]
        for kind in LINES:
            values = [_describe(kind, cell, experiment(name).epochs) if cell else "" for cell in found]
            lines.append([row_name(name) if kind == LINES[0] else "", kind, *values])
    return lines


def _describe(kind: str, cell: Cell, epochs_in_paper: int) -> str:
    if kind == "published":
        return _published(cell.published)
    if not cell.values:
        return "no run"
    if kind == "ours":
        return _with_deviation(cell.mean, cell.deviation)
    if kind == "epochs":
        fewest, most = cell.epochs
        done = str(most) if fewest == most else f"{fewest}–{most}"
        return f"{done} of {epochs_in_paper}, {len(cell.values)} seed{'s' if len(cell.values) > 1 else ''}"
    if cell.difference is None:
        return ""
    return f"{cell.difference:+.2f} {cell.verdict}".strip().replace("-", "−")


def _published(published: Published | None) -> str:
    return "not in the paper" if published is None else published.text + " †" * published.from_memory


def _with_deviation(value: float, deviation: float | None) -> str:
    return f"{value:.2f}" if deviation is None else f"{value:.2f} ± {deviation:.2f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _title(table: Table) -> str:
    return f"{table.title}, test {table.measure} (%), mean ± standard deviation over seeds"


def _notes(table: Table) -> Sequence[str]:
    notes = [WITHIN]
    if any(published.train_error is not None for row in table.rows.values() for published in row.values()):
        notes.append(TRAIN_ERROR)
    if table.is_from_memory:
        notes.append(FROM_MEMORY)
    return [*notes, table.note] if table.note else notes
