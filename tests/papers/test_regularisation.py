from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fastalign import nn
from fastalign.papers import data
from fastalign.papers.data import Dataset, Splits, shuffled
from fastalign.papers.experiments import experiment
from fastalign.papers.runs.checkpoint import load_checkpoint
from fastalign.papers.runs.loop import Trainer
from fastalign.papers.runs.progress import Progress
from fastalign.papers.runs.regularisation import adversarial, limit_norms
from fastalign.papers.runs.run import train
from fastalign.step.losses import binary_cross_entropy

ADVERSARIAL = replace(experiment("digits/mlp"), adversarial_epsilon=0.08, loss="binary_cross_entropy", reduction="sum")


@pytest.fixture(scope="module")
def splits() -> Splits:
    digits = data.load("digits")
    return Splits(Dataset(digits.train.images[:96], digits.train.labels[:96], 10), digits.test)


@pytest.mark.parametrize("rule", ["bp", "dfa", "fa"])
def test_the_adversarial_batch_follows_the_true_gradient_under_every_rule(rule: str, splits: Splits) -> None:
    trainer = Trainer(ADVERSARIAL, rule, splits, dtype=torch.float64)
    images, labels = trainer.splits.train.images[:8], trainer.splits.train.labels[:8]
    x = images.clone().requires_grad_()
    hidden = x
    *hidden_layers, output = [module for module in trainer.network if isinstance(module, nn.Linear)]
    for layer in hidden_layers:
        hidden = torch.tanh(F.linear(hidden, layer.weight, layer.bias))
    F.binary_cross_entropy_with_logits(
        F.linear(hidden, output.weight, output.bias), F.one_hot(labels, 10).double(), reduction="sum"
    ).backward()
    assert x.grad is not None
    found = adversarial(trainer.network, images, labels, binary_cross_entropy, 0.08)
    assert torch.equal(found, images + 0.08 * x.grad.sign())


def test_an_epoch_trains_on_adversarial_batches_alone(splits: Splits) -> None:
    trainer = Trainer(ADVERSARIAL, "bp", splits, learning_rate=1e-3, seed=3, dtype=torch.float64)
    plain = Trainer(
        replace(ADVERSARIAL, adversarial_epsilon=0.0), "bp", splits, learning_rate=1e-3, dtype=torch.float64
    )
    plain.network.load_state_dict(trainer.network.state_dict())
    images, labels = plain.splits.train.images, plain.splits.train.labels
    order = shuffled(96, torch.Generator().manual_seed(3), "cpu")
    losses = 0.0
    for batch in order.split(32):
        perturbed = adversarial(plain.network, images[batch], labels[batch], binary_cross_entropy, 0.08)
        loss = binary_cross_entropy(plain.network(perturbed), labels[batch])
        losses += loss.item()
        plain.optimizer.zero_grad()
        loss.backward()
        plain.optimizer.step()
    metrics = trainer.train_epoch()
    assert metrics is not None
    assert metrics.train_loss == pytest.approx(losses / 96, rel=1e-9)
    for ours, theirs in zip(trainer.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", experiment("digits/conv").rules)
def test_convolutions_drop_before_they_pool(rule: str, splits: Splits) -> None:
    """As dfa-torch's conv.lua has it."""
    plain = experiment("digits/conv")
    (convolution,) = plain.architecture.convolutions
    dropped = (replace(convolution, dropout=0.25),)
    recipe = replace(plain, architecture=replace(plain.architecture, convolutions=dropped, input_dropout=0.1))
    trainer = Trainer(recipe, rule, splits)
    names = [type(module).__name__ for module in trainer.network]
    assert names == ["Dropout", "Conv2d", "Dropout", "MaxPool2d", "Flatten", "Linear", "Linear"]
    assert trainer.network[2].p == 0.25
    metrics = trainer.train_epoch()
    assert metrics is not None
    assert math.isfinite(metrics.train_loss)


def test_norms_into_units_and_out_of_inputs_are_bounded_one_after_the_other() -> None:
    network = nn.Sequential(nn.Linear(3, 2), rule="bp")
    weight, bias = network.parameters()
    with torch.no_grad():
        weight.copy_(torch.tensor([[3.0, 0.0, 4.0], [0.0, 1.0, 0.0]]))
        bias.fill_(9.0)
    limit_norms(network, (2.0, 1.5))
    # The first row shrinks from norm 5 to 2, then its last column from 1.6 to 1.5.
    torch.testing.assert_close(weight.detach(), torch.tensor([[1.2, 0.0, 1.5], [0.0, 1.0, 0.0]]))
    assert bias.tolist() == [9.0, 9.0]


def test_norms_are_bounded_before_every_step(splits: Splits) -> None:
    recipe = replace(experiment("digits/mlp"), max_norms=(0.5, 0.4))
    trainer = Trainer(recipe, "dfa", splits, learning_rate=1e-9)
    trainer.train_epoch()
    first, *others = [weight for weight in trainer.network.parameters() if weight.dim() > 1]
    assert 0.3999 < first.norm(dim=0).max() < 0.4001
    for weight in (first, *others):
        assert weight.norm(dim=1).max() < 0.5001
        assert weight.norm(dim=0).max() < 0.4001


def test_a_run_bounds_the_norms_of_a_recipe_that_is_given_some(tmp_path: Path) -> None:
    recipe = replace(experiment("digits/mlp"), max_norms=(0.5, 0.4))
    train(recipe, "dfa", {"epochs": 1, "lr": 1e-9, "device": "cpu"}, out=tmp_path, progress=Progress())
    model = load_checkpoint(tmp_path / "checkpoint")["model"]
    norms = [value.norm(dim=0).max().item() for name, value in model.items() if name.endswith("weight")]
    assert len(norms) == 3
    assert max(norms) == pytest.approx(0.4, abs=1e-4)
