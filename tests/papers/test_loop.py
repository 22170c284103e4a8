from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fastalign import TrainStep
from fastalign.papers import data
from fastalign.papers.data import Dataset, Splits, batches, shuffled
from fastalign.papers.experiments import experiment
from fastalign.papers.runs.loop import Trainer, TrainerState
from fastalign.papers.runs.recipe import Recipe

MLP = experiment("digits/mlp")
WITH_DROPOUT = replace(MLP, architecture=replace(MLP.architecture, hidden=(16, 16), hidden_dropout=0.2))
# Losses, sums and optimizers differ; the last batch of 32 is smaller.
SUM = replace(WITH_DROPOUT, loss="binary_cross_entropy", reduction="sum", optimizer="rmsprop")


@pytest.fixture(scope="module")
def splits() -> Splits:
    digits = data.load("digits")
    return Splits(Dataset(digits.train.images[:300], digits.train.labels[:300], 10), digits.test)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_an_epoch_of_bp_is_that_of_plain_pytorch(splits: Splits, reduction: str) -> None:
    recipe = replace(MLP, reduction=reduction, decay_epochs=(1,), decay=0.5)
    trainer = Trainer(recipe, "bp", splits, learning_rate=0.01, seed=3, dtype=torch.float64)
    plain = torch.nn.Sequential(
        torch.nn.Linear(64, 128),
        torch.nn.Tanh(),
        torch.nn.Linear(128, 128),
        torch.nn.Tanh(),
        torch.nn.Linear(128, 10),
    ).double()
    with torch.no_grad():
        for ours, theirs in zip(trainer.network.parameters(), plain.parameters(), strict=True):
            theirs.copy_(ours)
    images, labels = splits.train.images.flatten(1).double(), splits.train.labels
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9)
    generator = torch.Generator().manual_seed(3)
    for rate in (0.01, 0.005):
        optimizer.param_groups[0]["lr"] = rate
        losses, wrong = 0.0, 0
        for batch in batches(shuffled(300, generator, "cpu"), 32):
            outputs = plain(images[batch])
            loss = F.cross_entropy(outputs, labels[batch], reduction=reduction)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.item() * (len(batch) if reduction == "mean" else 1)
            wrong += int((outputs.argmax(1) != labels[batch]).sum())
        with torch.no_grad():
            test_wrong = (plain(splits.test.images.flatten(1).double()).argmax(1) != splits.test.labels).sum()
        metrics = trainer.train_epoch()
        assert metrics is not None
        assert metrics.lr == rate
        assert metrics.train_loss == pytest.approx(losses / 300, rel=1e-9)
        assert metrics.train_error == pytest.approx(100 * wrong / 300)
        assert metrics.test_error == pytest.approx(100 * test_wrong.item() / 359)
    for ours, theirs in zip(trainer.network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def through_a_file(state: TrainerState) -> TrainerState:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    saved: TrainerState = torch.load(file, weights_only=True)
    return saved


@pytest.mark.parametrize("rule", ["bp", "dfa", "pepita"])
@pytest.mark.parametrize("recipe", [WITH_DROPOUT, SUM], ids=["mean", "sum"])
@pytest.mark.parametrize("stop", [0, 1, 7, 10, 13])
def test_a_run_stopped_after_any_batch_goes_on_with_the_same_bits(
    splits: Splits, recipe: Recipe, rule: str, stop: int, same_bits: Callable[[object, object], bool]
) -> None:
    def trainer() -> Trainer:
        return Trainer(recipe, rule, splits, seed=5)

    unbroken = trainer()
    expected = [unbroken.train_epoch(), unbroken.train_epoch()]

    stopped = trainer()
    history = []
    done = 0

    def count(samples: int) -> None:
        nonlocal done
        done += 1

    while (metrics := stopped.train_epoch(lambda: done >= stop, count)) is not None:
        history.append(metrics)
    assert stopped.samples_so_far == min(stop % 10 * 32, 300)
    state = through_a_file(stopped.state())
    torch.manual_seed(99)
    resumed = trainer()
    resumed.restore(state)
    while len(history) < 2:
        metrics = resumed.train_epoch()
        assert metrics is not None
        history.append(metrics)
    assert same_bits(resumed.state(), unbroken.state())
    for ours, theirs in zip(history, expected, strict=True):
        assert theirs is not None
        assert replace(ours, seconds=0) == replace(theirs, seconds=0)


def test_the_test_error_is_that_of_the_network_without_dropout(splits: Splits) -> None:
    recipe = replace(MLP, architecture=replace(MLP.architecture, hidden=(16,), hidden_dropout=0.9))
    trainer = Trainer(recipe, "bp", splits)
    metrics = trainer.train_epoch()
    weights = list(trainer.network.parameters())
    with torch.no_grad():
        hidden = torch.tanh(F.linear(splits.test.images.flatten(1).float(), weights[0], weights[1]))
        wrong = F.linear(hidden, weights[2], weights[3]).argmax(1) != splits.test.labels
    assert metrics is not None
    assert metrics.test_error == 100 * int(wrong.sum()) / 359


def test_frozen_filters_stay_and_the_rest_learns() -> None:
    trainer = Trainer(experiment("digits/conv"), "pepita", data.load("digits"), frozen_filters=True)
    before = copy.deepcopy(trainer.network.state_dict())
    first, second = trainer.train_epoch(), trainer.train_epoch()
    assert first is not None
    assert second is not None
    changed = {name for name, value in trainer.network.state_dict().items() if not torch.equal(value, before[name])}
    convolution = {name for name, parameter in trainer.network.named_parameters() if not parameter.requires_grad}
    assert len(convolution) == 2
    assert changed == {name for name, parameter in trainer.network.named_parameters() if parameter.requires_grad}
    assert second.train_error < first.train_error


@pytest.mark.parametrize("recipe", [WITH_DROPOUT, SUM], ids=["mean", "sum"])
@pytest.mark.parametrize("rule", ["bp", "dfa", "drtp", "pepita"])
def test_the_plain_loop_is_the_fused_step(
    splits: Splits, rule: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to rounding, dropout included."""
    fused = Trainer(recipe, rule, splits, dtype=torch.float64)
    expected = fused.train_epoch()
    monkeypatch.setattr(TrainStep, "step", None)
    plain = Trainer(recipe, rule, splits, dtype=torch.float64, fused_step=False)
    found = plain.train_epoch()
    assert expected is not None
    assert found is not None
    assert found.train_error == expected.train_error
    torch.testing.assert_close(found.train_loss, expected.train_loss)
    torch.testing.assert_close(plain.network.state_dict(), fused.network.state_dict())


@pytest.mark.parametrize("rule", ["bp", "dfa", "pepita"])
def test_bfloat16_learns(rule: str) -> None:
    trainer = Trainer(MLP, rule, data.load("digits"), dtype=torch.bfloat16)
    errors = [metrics.train_error for metrics in (trainer.train_epoch() for _ in range(3)) if metrics]
    assert errors[-1] < 25
    assert all(parameter.dtype == torch.bfloat16 for parameter in trainer.network.parameters())
