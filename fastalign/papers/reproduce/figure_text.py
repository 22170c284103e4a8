"""What was measured of a figure's runs, for terminals, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import math
from statistics import mean, stdev

from fastalign.papers.experiments import experiment
from fastalign.papers.reproduce.figure import Figure, Runs
from fastalign.papers.reproduce.render import why_early
from fastalign.tables import Table

CSV_COLUMNS = (
    *("figure", "experiment", "column", "label", "quantity"),
    *("ours", "deviation", "seeds", "fewest_epochs", "most_epochs", "published"),
)
Found = dict[str, dict[str, list[float]]]


def as_text(figure: Figure, runs: Runs) -> str:
    """For a terminal."""
    table = _table(figure, runs)
    return "\n".join([table.title, "", *table.lines(gap="  "), *([figure.note] if figure.note else [])]) + "\n"


def as_markdown(figure: Figure, runs: Runs) -> str:
    """With the title as a paragraph before it."""
    table = _table(figure, runs)
    return (
        "\n".join([f"**{table.title}**", "", table.for_markdown(), "", *([figure.note] if figure.note else [])]) + "\n"
    )


def as_csv(figure: Figure, runs: Runs) -> str:
    """One line for each label and quantity."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for label, quantities in _measured(figure, runs).items():
        seeds = runs[label]
        epochs = [len(run.history) for run in seeds]
        for quantity, values in quantities.items():
            writer.writerow(
                [
                    *(figure.name, seeds[0].experiment, seeds[0].column.name, label, quantity),
                    *(f"{mean(values):.6g}", f"{stdev(values):.6g}" if len(values) > 1 else ""),
                    *(len(values), min(epochs), max(epochs), figure.published.get(label, {}).get(quantity, "")),
                ]
            )
    return file.getvalue()


def _measured(figure: Figure, runs: Runs) -> Found:
    """By label and quantity, the values of all seeds that have one."""
    found: Found = {}
    for label, seeds in runs.items():
        found[label] = {}
        for run in seeds:
            for quantity, value in figure.measures(run).items():
                if math.isfinite(value):
                    found[label].setdefault(quantity, []).append(value)
    return found


def _table(figure: Figure, runs: Runs) -> Table:
    """The table has a row for each label."""
    found = _measured(figure, runs)
    quantities = list(dict.fromkeys(quantity for values in found.values() for quantity in values))
    known = {quantity for published in figure.published.values() for quantity in published}
    header = [""]
    for quantity in quantities:
        header += [quantity, f"{quantity}, published"] if quantity in known else [quantity]
    header += ["epochs", "seeds"]
    lines = []
    for label, values in found.items():
        line = [label]
        for quantity in quantities:
            line.append(_with_deviation(values.get(quantity, [])))
            if quantity in known:
                line.append(figure.published.get(label, {}).get(quantity, ""))
        seeds = runs[label]
        lengths = sorted({len(run.history) for run in seeds})
        epochs = "–".join(map(str, dict.fromkeys((lengths[0], lengths[-1]))))
        recipe = experiment(seeds[0].experiment)
        stopped = sum(recipe.stopped_early(run.history) for run in seeds)
        lines.append([*line, epochs + why_early(recipe, stopped, len(seeds)), str(len(seeds))])
    return Table(f"{figure.title}; mean ± standard deviation over seeds", header, lines, texts=len(header))


def _with_deviation(values: list[float]) -> str:
    """Two decimals, or three digits of what is smaller than those show."""
    if not values:
        return ""
    digits = ".2f" if abs(mean(values)) >= 1 or not mean(values) else ".3g"
    return f"{mean(values):{digits}}" + (f" ± {stdev(values):{digits}}" if len(values) > 1 else "")
