from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from fastalign import cli
from fastalign.papers.experiments import EXPERIMENTS, experiment
from fastalign.papers.experiments.published import BP, TABLES, Column
from fastalign.papers.reproduce.collected import collect, figure_runs_of, load, results_page
from fastalign.papers.reproduce.figure import TEST_ACCURACY, TEST_ERROR, Figure, Run, observed
from fastalign.papers.reproduce.figure_text import as_csv, as_markdown, as_text
from fastalign.papers.reproduce.figures import FIGURES, SLOWNESS
from fastalign.papers.reproduce.jobs import jobs_of
from fastalign.papers.runs.folder import RunFolder
from fastalign.papers.runs.metrics import Metrics, MetricsLog
from fastalign.papers.runs.progress import Progress
from fastalign.papers.runs.run import train

VARIANTS = "pepita/mnist-fc-variants"
ANGLE = observed("alignment_angle", 0, "angle (°)", reference=90)
FIGURE = Figure(
    "F",
    "A figure",
    [(VARIANTS, Column("pepita", "plus", "pepita")), (VARIANTS, Column("minus", "minus", "minus"))],
    (TEST_ERROR, ANGLE),
    published={"plus": {TEST_ERROR.name: "2.0"}},
    note="A note.",
)


def epochs_of(*test_errors: float, angle: float = 100.0) -> list[Metrics]:
    return [
        Metrics(i + 1, 0.1, 1.0, error, 2.0, 0.1, {"alignment_angle": {0: angle}, "weight_norm": {1: 45.0, 2: 3.0}})
        for i, error in enumerate(test_errors)
    ]


def runs(figure: Figure, histories: dict[str, Sequence[list[Metrics]]]) -> dict[str, list[Run]]:
    """By the column's name, the epochs of each seed."""
    return figure.by_label(
        [
            Run(name, column, seed, history)
            for name, column in figure.cells
            for seed, history in enumerate(histories.get(column.name, ()))
        ]
    )


def test_every_run_of_a_figure_is_of_an_experiment_and_has_a_label_of_its_own() -> None:
    for figure in FIGURES.values():
        assert all(column.rule in EXPERIMENTS[name].rules for name, column in figure.cells)
        labels = [figure.label(name, column) for name, column in figure.cells]
        assert len(set(labels)) == len(labels)
        assert figure.published.keys() <= set(labels)
        assert not figure.usual_rows or jobs_of(figure, rows=None, columns=None, seeds=1, epochs=1, out=Path("none"))
    assert not FIGURES.keys() & TABLES.keys()


def test_the_command_lists_every_target() -> None:
    listed = [word for line in cli.TARGETS.splitlines() if line.startswith("  ") for word in line[:19].split()]
    assert listed == [
        *(name for name in [*TABLES, *FIGURES] if name.startswith("A")),
        *(name for name in [*TABLES, *FIGURES] if name.startswith("B")),
        *(name for name in FIGURES if name[0].islower()),
    ]


def test_the_table_of_a_figure_has_means_deviations_and_what_is_published() -> None:
    found = runs(FIGURE, {"pepita": [epochs_of(5.0, 3.0), epochs_of(4.0, angle=102.0)], "minus": [[]]})
    title, _, _, line, note = as_text(FIGURE, found).splitlines()
    assert title.startswith("A figure; mean")
    assert line.split("  ")[0] == "plus"
    for part in ("3.50 ± 0.71", "2.0", "101.00 ± 1.41", "1–2"):
        assert part in line
    assert note == "A note."
    markdown = as_markdown(FIGURE, found).splitlines()
    assert markdown[2] == "|  | test error (%) | test error (%), published | angle (°) | epochs | seeds |"
    rows = list(csv.DictReader(io.StringIO(as_csv(FIGURE, found))))
    assert [(row["quantity"], row["ours"], row["seeds"], row["published"]) for row in rows] == [
        ("test error (%)", "3.5", "2", "2.0"),
        ("angle (°)", "101", "2", ""),
    ]


def test_a_figure_says_which_runs_stopped_early() -> None:
    cell = ("nokland/mnist-3x400-tanh", BP)
    figure = Figure("F", "", [cell])
    whole, stopped = ([Metrics(i + 1, 0.1, error, 2.0, 2.0, 0.1) for i in range(3)] for error in (1.0, 0.01))
    found = figure.by_label([Run(*cell, 0, stopped)])
    assert "| 3, stopped at ≤ 0.01 % training error | 1 |" in as_markdown(figure, found)
    found = figure.by_label([Run(*cell, 0, stopped), Run(*cell, 1, whole)])
    assert "| 3, 1 stopped at ≤ 0.01 % training error | 2 |" in as_markdown(figure, found)


def test_what_was_not_observed_is_left_out() -> None:
    found = runs(FIGURE, {"pepita": [epochs_of(5.0, angle=math.nan)]})
    assert "angle" not in as_markdown(FIGURE, found)


# Figures whose drawing needs no trained network, on runs that stand in for theirs.
@pytest.mark.parametrize("name", [name for name, figure in FIGURES.items() if not figure.shows_networks])
@pytest.mark.parametrize("format", ["png", "svg"])
def test_every_figure_is_drawn(name: str, format: str) -> None:
    figure = FIGURES[name]
    cells = figure.cells[:12]
    history = epochs_of(5.0, 4.0, 3.0)
    history = [
        Metrics(**{**vars(m), "observations": {**m.observations, "gradient_angle": {1: 80.0, 2: 70.0}}})
        for m in history
    ]
    found = figure.by_label([Run(name, column, seed, history) for name, column in cells for seed in (0, 1)])
    assert len(found) == len(cells)
    image = figure.draw(figure, found, format)
    assert image.startswith(b"\x89PNG") if format == "png" else b"</svg>" in image
    assert all(figure.measures(run) for seeds in found.values() for run in seeds)


def test_slowness_and_the_angle_after_ten_epochs() -> None:
    slowness = FIGURES["B-slowness"]
    accuracies = [98 * t / (0.05 + t) for t in range(1, 40)]
    (run, *_), *_ = runs(slowness, {"bp": [epochs_of(*(100 - a for a in accuracies))]}).values()
    assert slowness.measures(run)[SLOWNESS] == pytest.approx(0.05, rel=0.1)  # its highest is not the plateau
    alignment = FIGURES["B-alignment"]
    history = epochs_of(*[3.0] * 12)
    history[9] = epochs_of(*[3.0] * 10, angle=121.0)[9]
    ((run,),) = runs(alignment, {"pepita": [history]}).values()
    measures = alignment.measures(run)
    assert measures["angle after 10 epochs (°)"] == 121
    assert measures[TEST_ACCURACY.name] == 97


def test_an_observed_column_asks_for_observation_and_takes_no_other_run(tmp_path: Path) -> None:
    figure = Figure("F", "", [("digits/mlp", Column("dfa", "DFA", "dfa", observe=True))])
    (job,) = jobs_of(figure, rows=None, columns=None, seeds=1, epochs=1, out=tmp_path)
    assert "--observe" in job.arguments()
    assert job.folder.path == tmp_path / "digits/mlp/dfa-observed/seed-0"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_gradient_angles_of_every_experiment_by_each_of_its_rules_but_bp(name: str, tmp_path: Path) -> None:
    row, rules = name.partition("/")[2], [rule for rule in EXPERIMENTS[name].rules if rule != "bp"]
    figure = FIGURES["gradient-angle"]
    jobs = jobs_of(figure, rows=[row], columns=rules, seeds=1, epochs=1, out=tmp_path)
    assert [(job.recipe.name, job.column.rule) for job in jobs] == [(name, rule) for rule in rules]
    assert all(job.recipe.observe or "--observe" in job.arguments() for job in jobs)


def test_the_runs_of_a_figure_are_kept_with_what_was_observed_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = Figure(
        "digits-angles",
        "Digits",
        [("digits/mlp", Column("dfa", "DFA", "dfa", observe=True))],
        (TEST_ERROR, observed("gradient_angle", 1, "angle (°)", reference=90)),
    )
    monkeypatch.setitem(FIGURES, figure.name, figure)
    folder = tmp_path / "runs/digits/mlp/dfa-observed/seed-0"
    given = {"epochs": 2, "device": "cpu", "observe": True}
    history = train(experiment("digits/mlp"), "dfa", given, out=folder, progress=Progress())
    plain = tmp_path / "runs/plain"
    train(experiment("digits/mlp"), "dfa", {"epochs": 3, "device": "cpu"}, out=plain, progress=Progress())
    results, images = tmp_path / "results", tmp_path / "images"
    written = {path.name for path in collect(tmp_path / "runs", results, images)}
    assert {"digits-angles.json", "digits-angles.png"} <= written
    (kept,) = load(results / "digits-angles.json")  # and not the run that was not observed
    assert len(kept["test_error"]) == 2
    ((run,),) = figure_runs_of(figure, [kept]).values()
    assert figure.measures(run) == pytest.approx(figure.measures(Run("digits/mlp", run.column, 0, history)), rel=1e-4)
    assert run.history[0].observations["gradient_angle"] == pytest.approx(
        history[0].observations["gradient_angle"], rel=1e-4
    )
    page = results_page(results, images)
    assert "## digits-angles" in page
    assert "![digits-angles](images/images/digits-angles.png)" in page


def test_trained_networks_come_back_from_a_run(tmp_path: Path) -> None:
    recipe = experiment("digits/mlp")
    train(recipe, "dfa", {"epochs": 1, "device": "cpu"}, out=tmp_path, progress=Progress())
    history = MetricsLog(tmp_path / "metrics.jsonl").read()
    run = Run("digits/mlp", Column("dfa", "DFA", "dfa"), 0, history, RunFolder(tmp_path))
    network, splits = run.trained
    network.eval()
    wrong = (network(splits.test.images).argmax(1) != splits.test.labels).float().mean().item()
    assert 100 * wrong == pytest.approx(history[-1].test_error, abs=1e-4)
    assert list(run.weights) == [1, 2, 3]
    matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    assert all(torch.equal(*pair) for pair in zip(run.weights.values(), matrices, strict=True))
    points = FIGURES["A-tsne"].draw(FIGURES["A-tsne"], {"DFA": [run]}, "png")
    assert points.startswith(b"\x89PNG")
