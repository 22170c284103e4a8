from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastalign.errors import RunError
from fastalign.papers.experiments import experiment
from fastalign.papers.experiments.published import BP, PEPITA, PEPITA_FROZEN
from fastalign.papers.reproduce.collected import collect, histories_of, load, results_page
from fastalign.papers.runs.metrics import Metrics, MetricsLog

ROOT = Path(__file__).parents[2]
MADE_BY = {
    "machine": {"processor": "A processor", "cores": 2, "system": "Linux"},
    "torch": "2.13.0",
    "threads": 1,
    "fastalign": "0.1.0",
    "commit": "0123456789abcdef",
    "uncommitted_changes": False,
}


def write_run(folder: Path, name: str, rule: str, errors: list[float], **other: Any) -> None:
    """A run's folder as training leaves it."""
    recipe = experiment(name)
    settings = {
        "experiment": name,
        "rule": rule,
        "epochs": recipe.epochs,
        "seed": 0,
        "lr": recipe.for_rule(rule).learning_rate,
        "batch_size": recipe.batch_size,
        "device": "cpu",
        "dtype": "float32",
        "freeze_filters": False,
        "processes": 1,
        **other,
    }
    folder.mkdir(parents=True)
    config = {"settings": settings, "recipe": recipe.as_json(rule), "data_checksum": 0, "made_by": MADE_BY}
    (folder / "config.json").write_text(json.dumps(config))
    for epoch, error in enumerate(errors, start=1):
        MetricsLog(folder / "metrics.jsonl").append(Metrics(epoch, 0.5, error / 2, error, 2.5, 0.1))


def test_runs_of_tables_are_kept_whole_and_others_are_left_out(tmp_path: Path) -> None:
    runs, results = tmp_path / "runs", tmp_path / "results"
    write_run(runs / "a/b", "pepita/mnist-fc", "bp", [3.0, 2.0])
    write_run(runs / "c", "pepita/mnist-conv", "pepita", [4.0], freeze_filters=True)
    write_run(runs / "d", "pepita/mnist-conv", "pepita", [5.0])
    write_run(runs / "e", "nokland/mnist-1x800-tanh", "dfa", [6.0], seed=3)
    write_run(runs / "f", "pepita/mnist-fc", "fa", [7.0], lr=0.5)
    write_run(runs / "g", "digits/mlp", "bp", [8.0])
    write_run(runs / "h", "pepita/mnist-fc", "drtp", [])
    assert {path.name for path in collect(runs, results)} == {
        *("A1.json", "B1.json"),  # and of the same runs:
        *("B-slowness.json", "B-distributions.json"),
    }
    kept = load(results / "B1.json")
    assert [(run["experiment"], run["column"], run["test_error"]) for run in kept] == [
        ("pepita/mnist-conv", PEPITA.name, [5.0]),
        ("pepita/mnist-conv", PEPITA_FROZEN.name, [4.0]),
        ("pepita/mnist-fc", BP.name, [3.0, 2.0]),
    ]
    assert kept[2]["made_by"] == MADE_BY
    assert kept[2]["train_error"] == [1.5, 1.0]
    assert kept[2]["seconds_per_epoch"] == 2.5
    assert [run["seed"] for run in load(results / "A1.json")] == [3]


def test_runs_are_added_to_the_targets_that_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "pepita/mnist-fc", "bp", [3.0, 2.0])
    assert [path.name for path in collect(tmp_path / "runs", tmp_path / "results", targets=["B1"])] == ["B1.json"]


def test_the_longer_of_two_runs_is_kept_whichever_comes_first(tmp_path: Path) -> None:
    for name, errors in (("long", [3.0, 2.0]), ("short", [9.0])):
        write_run(tmp_path / name, "pepita/mnist-fc", "bp", errors)
    write_run(tmp_path / "other/seed", "pepita/mnist-fc", "bp", [4.0], seed=1)
    for folder in ("short", "long", "short", "other"):
        collect(tmp_path / folder, tmp_path / "results")
    runs = load(tmp_path / "results/B1.json")
    assert [run["test_error"] for run in runs] == [[3.0, 2.0], [4.0]]
    ((first, second),) = histories_of(runs).values()
    assert [(m.epoch, m.test_error, m.train_error, m.seconds) for m in first] == [
        (1, 3.0, 1.5, 2.5),
        (2, 2.0, 1.0, 2.5),
    ]
    assert len(second) == 1


def test_the_page_says_what_came_out_and_who_made_it(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "nokland/mnist-1x800-tanh", "dfa", [1.8])
    collect(tmp_path / "run", tmp_path / "results")
    page = results_page(tmp_path / "results")
    assert "## A1" in page
    assert "## B1" not in page
    assert "| mnist-1x800-tanh | ours | 1.80 (0.90) |" in page
    assert "| 1.68 ± 0.05 † |" in page
    assert "- runs on cpu (A processor, 2 cores, torch 2.13.0, commit 0123456789): 1" in page


def test_a_damaged_configuration_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", "pepita/mnist-fc", "bp", [3.0])
    (tmp_path / "runs/b").mkdir()
    (tmp_path / "runs/b/config.json").write_text("{")
    with pytest.raises(RunError, match=r"runs/b/config\.json is damaged"):
        collect(tmp_path / "runs", tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_the_page_in_docs_is_that_of_the_results_kept() -> None:
    kept, images = ROOT / "benchmarks/results/papers", ROOT / "docs/images/papers"
    assert (ROOT / "docs/results.md").read_text() == results_page(kept, images)
