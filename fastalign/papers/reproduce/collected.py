"""The runs of a table or a figure as one JSON file, kept with the sources; and the page of results made of those."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastalign.bench.atomic import write_atomically
from fastalign.papers.experiments import experiment
from fastalign.papers.experiments.published import TABLES, Column, Table
from fastalign.papers.reproduce import figure_text
from fastalign.papers.reproduce.figure import Figure, Runs
from fastalign.papers.reproduce.figure import Run as FigureRun
from fastalign.papers.reproduce.figures import FIGURES
from fastalign.papers.reproduce.jobs import is_run_of
from fastalign.papers.reproduce.render import as_markdown
from fastalign.papers.reproduce.result import Histories
from fastalign.papers.reproduce.table import draw_table
from fastalign.papers.runs.folder import RunFolder
from fastalign.papers.runs.metrics import Metrics
from fastalign.papers.runs.settings import Settings

Run = dict[str, Any]

INTRODUCTION = """# Results

Each table and figure of the papers as it came out here, and as it was published. Made by `python benchmarks/papers.py`
from the runs in `benchmarks/results/papers/`, which hold every epoch; `fastalign reproduce TARGET` runs them again.
"""


def collect(
    folder: Path, results: Path, images: Path | None = None, targets: Collection[str] | None = None
) -> list[Path]:
    """Add every run of a table or a figure below `folder` to its file in `results`, and draw it; the files written.

    Of two runs of one row, column and seed the longer one is kept. Runs with settings of their own are of no target.

    Args:
        folder: as `fastalign reproduce --out` leaves it.
        results: of the JSON files.
        images: of the pictures; None for none. What shows networks is drawn from the runs below `folder` alone.
        targets: the names of the tables and figures to add to; None for all.

    Raises:
        RunError: a folder holds a damaged configuration, or a file cannot be written.
    """
    found: dict[str, list[tuple[Run, RunFolder]]] = defaultdict(list)
    for config in sorted(folder.rglob("config.json")):
        run_folder = RunFolder(config.parent)
        for name, run in _runs_in(run_folder):
            if targets is None or name in targets:
                found[name].append((run, run_folder))
    written = []
    for name, found_runs in found.items():
        path = results / f"{name}.json"
        runs = [*load(path), *(run for run, _ in found_runs)]
        kept = {_key(run): run for run in sorted(runs, key=lambda run: len(run["test_error"]))}
        results.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _as_json(name, [kept[key] for key in sorted(kept)]))
        written.append(path)
        if images is not None:
            picture = _picture(name, load(path), found_runs)
            images.mkdir(parents=True, exist_ok=True)
            write_atomically(images / f"{name}.png", picture)
            written.append(images / f"{name}.png")
    return written


def load(path: Path) -> list[Run]:
    """The runs in a file of results; none where there is no file."""
    return list(json.loads(path.read_text())["runs"]) if path.exists() else []


def results_page(results: Path, images: Path | None = None) -> str:
    """Every table and figure of which there are runs, with its picture if there is one, and who made them."""
    sections = [INTRODUCTION]
    for name in [*TABLES, *FIGURES]:
        runs = load(results / f"{name}.json")
        if not runs:
            continue
        if name in TABLES:
            text = as_markdown(TABLES[name], histories_of(runs))
        else:
            text = figure_text.as_markdown(FIGURES[name], figure_runs_of(FIGURES[name], runs))
        picture = ""
        if images is not None and (images / f"{name}.png").exists():
            picture = f"![{name}](images/{images.name}/{name}.png)\n\n"
        sections.append(f"## {name}\n\n{text}\n{picture}{_made_by(runs)}")
    return "\n".join(sections)


def histories_of(runs: Iterable[Run]) -> Histories:
    """The epochs of every cell's runs."""
    histories: dict[tuple[str, str], list[list[Metrics]]] = defaultdict(list)
    for run in runs:
        histories[run["experiment"], run["column"]].append(_history(run))
    return histories


def figure_runs_of(figure: Figure, runs: Iterable[Run]) -> Runs:
    """The runs of a figure as they were kept."""
    columns = {(name, column.name): column for name, column in figure.cells}
    return figure.by_label(
        [
            FigureRun(name, columns[name, run["column"]], run["seed"], _history(run), kept=_numbers(run["measured"]))
            for run in runs
            if ((name := run["experiment"]), run["column"]) in columns
        ]
    )


def _picture(name: str, runs: Sequence[Run], found: Sequence[tuple[Run, RunFolder]]) -> bytes:
    if name in TABLES:
        return draw_table(TABLES[name], histories_of(runs), "png")
    figure = FIGURES[name]
    if not figure.shows_networks:
        return figure.draw(figure, figure_runs_of(figure, runs), "png")
    columns = {column.name: column for _, column in figure.cells}
    return figure.draw(
        figure,
        figure.by_label(
            [
                FigureRun(run["experiment"], columns[run["column"]], run["seed"], _history(run), folder)
                for run, folder in found
            ]
        ),
        "png",
    )


def _runs_in(folder: RunFolder) -> Iterable[tuple[str, Run]]:
    """The run in a folder, for every table and figure that has its row and column."""
    config = folder.saved_config(resume=True)
    history = folder.metrics.read()
    if config is None or not history:
        return
    settings = config.settings
    targets: list[Table | Figure] = [*TABLES.values(), *FIGURES.values()]
    for target in targets:
        column = _column(target, settings)
        if column and is_run_of(config, experiment(settings.experiment), column, settings.seed):
            run = _run(column, settings, config.made_by, history)
            if isinstance(target, Figure):
                figure_run = FigureRun(settings.experiment, column, settings.seed, history, folder)
                run |= {"observations": _observations(history), "measured": target.measures(figure_run)}
            yield target.name, run


def _column(target: Table | Figure, settings: Settings) -> Column | None:
    wanted = (settings.experiment, settings.rule, settings.freeze_filters)
    cells = ((name, column.rule, column.freeze_filters, column) for name, column in target.cells)
    return next((column for *cell, column in cells if tuple(cell) == wanted), None)


def _run(column: Column, settings: Settings, made_by: Any, history: Sequence[Metrics]) -> Run:
    return {
        "experiment": settings.experiment,
        "column": column.name,
        "seed": settings.seed,
        "device": settings.device,
        "made_by": made_by,
        "seconds_per_epoch": round(sum(metrics.seconds for metrics in history) / len(history), 3),
        "train_error": [round(metrics.train_error, 4) for metrics in history],
        "test_error": [round(metrics.test_error, 4) for metrics in history],
    }


def _observations(history: Sequence[Metrics]) -> dict[str, dict[str, list[float]]]:
    """By name and layer, the value after each epoch."""
    return {
        name: {
            str(layer): [float(f"{m.observations.get(name, {}).get(layer, math.nan):.6g}") for m in history]
            for layer in layers
        }
        for name, layers in history[-1].observations.items()
    }


def _history(run: Run) -> list[Metrics]:
    observations = run.get("observations", {})
    return [
        Metrics(
            epoch,
            *(math.nan, train_error, test_error, run["seconds_per_epoch"], math.nan),
            observations={
                name: {int(layer): _number(values[epoch - 1]) for layer, values in layers.items()}
                for name, layers in observations.items()
            },
        )
        for epoch, (train_error, test_error) in enumerate(
            zip(run["train_error"], run["test_error"], strict=True), start=1
        )
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: _number(value) for name, value in values.items()}


def _key(run: Run) -> tuple[str, str, int]:
    return run["experiment"], run["column"], run["seed"]


def _as_json(name: str, runs: Sequence[Run]) -> bytes:
    """One line for each run."""
    lines = ",\n".join(json.dumps(_finite(run), ensure_ascii=False, allow_nan=False) for run in runs)
    return f'{{"table": "{name}", "runs": [\n{lines}\n]}}\n'.encode()


def _finite(value: Any) -> Any:
    """With null in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _made_by(runs: Sequence[Run]) -> str:
    """A line for each machine, version and commit, with the number of runs that it made."""
    makers = Counter(f"{run['device']} ({_in_words(run['made_by'])})" for run in runs)
    return "".join(f"- runs on {maker}: {count}\n" for maker, count in makers.items())


def _in_words(made_by: Mapping[str, Any] | None) -> str:
    if made_by is None:
        return "unknown"
    commit = (made_by["commit"] or "no checkout")[:10] + " with changes" * bool(made_by["uncommitted_changes"])
    machine = made_by["machine"]
    return f"{machine['processor']}, {machine['cores']} cores, torch {made_by['torch']}, commit {commit}"
