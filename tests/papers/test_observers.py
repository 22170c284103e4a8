from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F

from fastalign.analysis import gradient_angles
from fastalign.nn import Sequential
from fastalign.papers import data, read_metrics
from fastalign.papers.data import Splits
from fastalign.papers.experiments.digits import MLP
from fastalign.papers.runs.loop import Trainer
from fastalign.papers.runs.metrics import Metrics, MetricsLog
from fastalign.papers.runs.observers import standard_observers
from fastalign.papers.runs.progress import Progress
from fastalign.papers.runs.run import train

NAMES = {"alignment_angle", "gradient_angle", "weight_norm"}
RECIPE = replace(MLP, architecture=replace(MLP.architecture, hidden=(16, 16), hidden_dropout=0.2))


@pytest.fixture(scope="module")
def splits() -> Splits:
    return data.load("digits")


@pytest.mark.parametrize("rule", MLP.rules)
def test_to_be_observed_changes_no_bit(splits: Splits, rule: str, same_bits: Callable[[object, object], bool]) -> None:
    alone = Trainer(RECIPE, rule, splits)
    for _ in range(2):
        alone.train_epoch()
    expected = alone.state()
    observed = Trainer(RECIPE, rule, splits)
    observed.observers = standard_observers(observed.splits.train, observed.loss, "mean")
    for _ in range(2):
        metrics = observed.train_epoch()
    assert metrics is not None
    assert set(metrics.observations) == NAMES
    assert list(metrics.observations["weight_norm"]) == [1, 2, 3]
    *_, weight, _ = observed.network.parameters()
    assert metrics.observations["weight_norm"][3] == pytest.approx(weight.norm().item())
    assert same_bits(observed.state(), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_pepita_is_observed_with_the_error_that_it_trains_with(splits: Splits, reduction: str) -> None:
    rules = {"pepita": replace(MLP.rules["pepita"], options={})}
    trainer = Trainer(replace(MLP, reduction=reduction, rules=rules), "pepita", splits, learning_rate=0.002)
    x, y = trainer.splits.train.images[:256], trainer.splits.train.labels[:256]
    network = trainer.network
    expected = gradient_angles(network, x, lambda outputs: F.cross_entropy(outputs, y, reduction=reduction))
    angles = standard_observers(trainer.splits.train, trainer.loss, reduction)["gradient_angle"](network)
    assert angles == pytest.approx(expected, abs=1e-3)
    # A modulation of the right size is small, so that ΔW_L is the gradient but for a few degrees.
    assert 0.1 < angles[3] < 5


def test_observations_come_back_from_the_file(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    metrics = Metrics(1, 0.5, 2.5, 3.5, 0.25, 0.1, {"gradient_angle": {1: 88.5, 2: math.nan}})
    log.append(metrics)
    assert '"observations": {"gradient_angle": {"1": 88.5, "2": null}}' in log.path.read_text()
    (read,) = log.read()
    assert read.observations["gradient_angle"][1] == 88.5
    assert math.isnan(read.observations["gradient_angle"][2])
    assert log.cut_after(1) == [read]


def test_a_run_notes_them_and_still_does_when_resumed(tmp_path: Path) -> None:
    def run(epochs: int, resume: bool = False, observe: bool | None = None) -> list[Metrics]:
        given = {"epochs": epochs, "device": "cpu", "observe": observe}
        return train(MLP, "pepita", given, out=tmp_path / "run", resume=resume, progress=Progress())

    run(1, observe=True)
    history = run(2, resume=True)
    assert [set(metrics.observations) for metrics in history] == [NAMES, NAMES]
    assert MetricsLog(tmp_path / "run/metrics.jsonl").read() == history


def mine(network: Sequential) -> dict[int, float]:
    assert not network.training
    *_, weight, _ = network.parameters()
    return {0: 1.5, 3: weight.norm().item()}


def test_functions_of_the_users_are_noted_with_the_others_and_without(tmp_path: Path) -> None:
    observers = {"mine": mine}

    def run(out: str, resume: bool = False, **given: Any) -> list[Metrics]:
        given = {"epochs": 1, "device": "cpu", **given}
        return train(MLP, "dfa", given, out=tmp_path / out, resume=resume, progress=Progress(), observers=observers)

    (alone,) = run("alone")
    (together,) = run("together", observe=True)
    assert alone.observations.keys() == {"mine"}
    assert alone.observations["mine"] == {0: 1.5, 3: pytest.approx(together.observations["weight_norm"][3])}
    assert together.observations.keys() == {*NAMES, "mine"}
    assert [metrics.observations.keys() for metrics in run("alone", resume=True, epochs=2)] == [{"mine"}] * 2
    assert read_metrics(tmp_path / "together") == [together]


@pytest.mark.parametrize("told", [1.5, {1: "much"}, {"first": 1.0}, {1.7: 1.0}, None])
def test_an_observer_that_tells_no_numbers_is_named_before_anything_is_trained(tmp_path: Path, told: Any) -> None:
    with pytest.raises(TypeError, match="observers: expected of 'mine' a number for each layer, got"):
        train(MLP, "dfa", {}, out=tmp_path / "run", progress=Progress(), observers={"mine": lambda network: told})
    assert list((tmp_path / "run").iterdir()) == []


def test_an_observer_with_the_name_of_another_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="observers: weight_norm is noted already"):
        train(MLP, "dfa", {"observe": True}, out=tmp_path / "run", progress=Progress(), observers={"weight_norm": mine})
