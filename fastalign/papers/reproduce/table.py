"""A table of a paper: its runs by cell, and its learning curves beside the published levels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from fastalign.analysis.plots import Comparison, comparisons
from fastalign.papers.experiments.published import Table
from fastalign.papers.reproduce.jobs import Job, row_name
from fastalign.papers.reproduce.result import Histories, in_measure
from fastalign.papers.runs.metrics import Metrics


def by_cell(histories: Mapping[Job, Sequence[Metrics]]) -> Histories:
    """The epochs of every cell's runs."""
    cells = defaultdict(list)
    for job, history in histories.items():
        cells[job.recipe.name, job.column.name].append(history)
    return cells


def draw_table(table: Table, histories: Histories, format: str) -> bytes:
    """The test error over the epochs: a panel for each row, a colour for each column, published levels across."""
    level = "published (from memory, to be checked)" if table.is_from_memory else "published"
    return comparisons(_panels(table, histories), level, table.title, format)


def _panels(table: Table, histories: Histories) -> dict[str, Comparison]:
    """A panel for each row, with a curve and the published level of each column that has begun."""
    panels = {}
    for name, published in table.rows.items():
        begun = [column for column in table.columns if any(histories.get((name, column.name), ()))]
        runs = {
            column.label: [[metrics.test_error for metrics in history] for history in histories[name, column.name]]
            for column in begun
        }
        levels = {
            column.label: in_measure(found.mean, table.measure)  # an accuracy as an error, as the other way round
            for column in begun
            if (found := published.get(column.name)) is not None and found.mean is not None
        }
        if runs:
            panels[row_name(name)] = Comparison(runs, levels)
    return panels
