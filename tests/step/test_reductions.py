"""Under every rule the step of a summed loss is N times that of its mean, in `TrainStep` and in the training loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from networks import CLASSES, RULES, batches, network, twins
from torch import Tensor

from fastalign import TrainStep, rules
from fastalign.nn import Sequential
from fastalign.papers import data
from fastalign.papers.data import Dataset, Splits
from fastalign.papers.experiments import experiment
from fastalign.papers.runs.loop import Trainer
from fastalign.papers.runs.recipe import RuleRecipe
from fastalign.step.losses import LOSSES

N = 32
RECOMPUTED = [(name, "recompute") for name, rule in RULES.items() if not rule.passes_through_layers]
every_loss = pytest.mark.parametrize("loss", LOSSES)


def sgd(parameters: list[torch.nn.Parameter]) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.01)


def changes(net: Sequential, before: list[Tensor]) -> list[Tensor]:
    return [p.detach() - b for p, b in zip(net.parameters(), before, strict=True)]


def change_by(net: Sequential, optimizer: torch.optim.Optimizer, **settings: Any) -> list[Tensor]:
    """What one step changes, the same whether it is made call by call, recorded or replayed."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(N, 8, dtype=torch.float64, generator=generator)
    y = torch.randint(CLASSES, (N,), generator=generator)
    step = TrainStep(net, optimizer=optimizer, **settings)
    before = [p.detach().clone() for p in net.parameters()]
    found: list[list[Tensor]] = []
    for _ in range(4):
        torch.manual_seed(0)  # of dropout
        step.step(x, y)
        found.append(changes(net, before))
        with torch.no_grad():
            torch._foreach_copy_(list(net.parameters()), before)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    assert all(change.any() for change in found[0])
    return found[0]


@every_loss
@pytest.mark.parametrize(("rule", "memory"), [*((rule, "store") for rule in RULES), *RECOMPUTED])
def test_a_train_step(rule: str, memory: str, loss: str) -> None:
    of_mean, of_sum = (
        change_by(*twin, loss=loss, reduction=reduction, memory=memory)
        for twin, reduction in zip(twins(network("dense", rule), sgd), ("mean", "sum"), strict=True)
    )
    torch.testing.assert_close(of_sum, [N * change for change in of_mean])


def test_a_train_step_of_several_rules() -> None:
    net = network("with_block")
    net.set_rule([rules.DFA(sign_of_error=True), rules.DRTP(), "bp"])
    of_mean, of_sum = (
        change_by(*twin, loss="mse", reduction=reduction)
        for twin, reduction in zip(twins(net, sgd), ("mean", "sum"), strict=True)
    )
    torch.testing.assert_close(of_sum, [N * change for change in of_mean])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_scale_of_the_rule_goes_before_that_of_the_loss(reduction: str) -> None:
    net = network("dense")
    net.set_rule(rules.DRTP(error_scale=5.0))
    (own, optimizer), (plain, plain_optimizer) = twins(net, sgd)
    x, y = batches("dense")[0]
    torch.manual_seed(0)
    TrainStep(own, loss="cross_entropy", optimizer=optimizer, reduction=reduction).step(x, y)
    torch.manual_seed(0)
    torch.nn.functional.cross_entropy(plain(x, y), y, reduction=reduction).backward()
    plain_optimizer.step()
    torch.testing.assert_close(list(own.parameters()), list(plain.parameters()))


@every_loss
@pytest.mark.parametrize("fused_step", [True, False], ids=["step", "loop"])
@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "sign", "ifa", "drtp", "pepita", "upper drtp"])
def test_a_run(rule: str, fused_step: bool, loss: str) -> None:
    digits = data.load("digits")
    splits = Splits(Dataset(digits.train.images[:N], digits.train.labels[:N], 10), digits.test)
    of_rule = {
        "sign": RuleRecipe(0.01, "uniform-fan-in", {"sign_of_error": True}, rule="dfa"),
        "upper drtp": RuleRecipe(0.01, "uniform-fan-in", rule="drtp", upper_rule="drtp"),
    }.get(rule, RuleRecipe(0.01, "uniform-fan-in"))
    found = []
    for reduction in ("mean", "sum"):
        recipe = replace(experiment("digits/mlp"), loss=loss, reduction=reduction, rules={rule: of_rule})
        trainer = Trainer(recipe, rule, splits, batch_size=N, dtype=torch.float64, fused_step=fused_step)
        before = [p.detach().clone() for p in trainer.network.parameters()]
        trainer.train_epoch()
        found.append(changes(trainer.network, before))
    of_mean, of_sum = found
    torch.testing.assert_close(of_sum, [N * change for change in of_mean])
