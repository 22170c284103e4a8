"""Rules that are not linear in e stay exact under other reductions, losses and scales of the loss (`error_scale`)."""

from __future__ import annotations

from collections.abc import Callable

import plain
import pytest
import torch
import torch.nn.functional as F
from plain import PlainLayer
from torch import Tensor

import fastalign.nn as nn
from fastalign import rules
from fastalign.rules.base import ErrorScale

MakeRule = Callable[[ErrorScale], rules.Rule]
NONLINEAR: list[MakeRule] = [
    lambda s: rules.PEPITA(projection_scale=1.0, error_scale=s),
    lambda s: rules.PEPITA(projection_scale=1.0, output_error="modulated", update="hebbian", error_scale=s),
    lambda s: rules.DRTP(error_scale=s),
    lambda s: rules.DFA(sign_of_error=True, error_scale=s),
]
nonlinear = pytest.mark.parametrize("rule", NONLINEAR, ids=["pepita", "pepita, e modulated", "drtp", "sign dfa"])
N, CLASSES = 6, 4


def network(rule: rules.Rule, output: torch.nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = [nn.Linear(8, 6, activation="tanh"), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 4)]
    return nn.Sequential(*layers, *(() if output is None else (output,)), rule=rule).double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(N, 8, dtype=torch.float64), torch.randint(CLASSES, (N,))


def gradients(net: nn.Sequential) -> list[Tensor]:
    return [p.grad for p in net.parameters() if p.grad is not None]


def mean_reduced(rule: MakeRule, x: Tensor, target: Tensor) -> list[Tensor]:
    net = network(rule(None))
    F.cross_entropy(net(x, target), target).backward()
    return gradients(net)


@nonlinear
def test_sum_reduction(rule: MakeRule, batch: tuple[Tensor, Tensor]) -> None:
    """s = 1: N times the mean's updates."""
    x, target = batch
    net = network(rule(1))
    F.cross_entropy(net(x, target), target, reduction="sum").backward()
    torch.testing.assert_close(gradients(net), [N * g for g in mean_reduced(rule, x, target)])


@nonlinear
def test_accumulation(rule: MakeRule, batch: tuple[Tensor, Tensor]) -> None:
    """s = N·k for loss / k: k micro-batches of N are one batch."""
    x, target = batch
    net = network(rule(lambda n: n * 3))
    for part in range(3):
        some = slice(2 * part, 2 * part + 2)
        (F.cross_entropy(net(x[some], target[some]), target[some]) / 3).backward()
    torch.testing.assert_close(gradients(net), mean_reduced(rule, x, target))


@nonlinear
def test_loss_scaling(rule: MakeRule, batch: tuple[Tensor, Tensor]) -> None:
    """s = N / S for S · loss, S that of a GradScaler: the same updates once unscaled."""
    x, target = batch
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    net = network(rule(lambda n: n / scaler.get_scale()))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler.scale(F.cross_entropy(net(x, target), target)).backward()
    torch.testing.assert_close(gradients(net), [1024 * g for g in mean_reduced(rule, x, target)])
    scaler.unscale_(optimizer)
    torch.testing.assert_close(gradients(net), mean_reduced(rule, x, target))
    before = [p.detach().clone() for p in net.parameters()]
    scaler.step(optimizer)
    torch.testing.assert_close(
        [b - p.detach() for b, p in zip(before, net.parameters(), strict=True)],
        [0.1 * g for g in mean_reduced(rule, x, target)],
    )


def by_equation(net: nn.Sequential, x: Tensor, target: Tensor, error: Callable[[Tensor, int], Tensor]) -> plain.Updates:
    """The updates of the papers for an error that is another than softmax − y."""
    names = ["tanh", "logistic", "identity"]
    layers = [
        PlainLayer(m.weight.detach(), m.bias.detach(), name)
        for m, name in zip((m for m in net if isinstance(m, torch.nn.Linear)), names, strict=True)
    ]
    rule = net.rule
    if isinstance(rule, rules.PEPITA):
        assert net.projection is not None
        settings = {"output_error": rule.output_error, "output": rule.output, "update": rule.update}
        return plain.pepita(layers, x, target, net.projection, error=error, **settings)  # type: ignore[arg-type]
    assert rule is not None
    sign = isinstance(rule, rules.DFA)
    return plain.learn(rule.name, layers, x, target, list(net.feedback), sign, error)  # type: ignore[arg-type]


def one_hot(target: int) -> Tensor:
    return F.one_hot(torch.tensor(target), CLASSES).double()


@nonlinear
def test_mean_squared_error(rule: MakeRule, batch: tuple[Tensor, Tensor]) -> None:
    """s = N·C / 2 makes e = ŷ − y; the output layer moves by the loss's own 2 / C of it."""
    x, target = batch
    net = network(rule(lambda n: n * CLASSES / 2))
    F.mse_loss(net(x, target), F.one_hot(target, CLASSES).double()).backward()
    expected = by_equation(net, x, target, lambda a, y: a - one_hot(y))
    torch.testing.assert_close(gradients(net), [2 / CLASSES * g for pair in expected for g in pair])


@nonlinear
@pytest.mark.parametrize("output", [None, nn.Sigmoid()], ids=["of logits", "of a logistic output"])
def test_binary_cross_entropy(rule: MakeRule, output: torch.nn.Module | None, batch: tuple[Tensor, Tensor]) -> None:
    """s = N·C makes e = σ(a_L) − y, whether σ is the loss's or the output layer's."""
    x, target = batch
    net = network(rule(lambda n: n * CLASSES), output)
    y = F.one_hot(target, CLASSES).double()
    loss = F.binary_cross_entropy_with_logits if output is None else F.binary_cross_entropy
    loss(net(x, target), y).backward()
    expected = by_equation(net, x, target, lambda a, y: torch.sigmoid(a) - one_hot(y))
    torch.testing.assert_close(gradients(net), [1 / CLASSES * g for pair in expected for g in pair])


@pytest.mark.parametrize("below", ["bp", "same"])
@pytest.mark.parametrize("rule", NONLINEAR[2:], ids=["drtp", "sign dfa"])
def test_blocks_and_normalisation(rule: MakeRule, below: str, batch: tuple[Tensor, Tensor]) -> None:
    """All that hangs on the rule's signal has its scale: a sum's updates are N times a mean's."""
    x, target = batch
    found = []
    for scale, reduction in ((None, "mean"), (1.0, "sum")):
        torch.manual_seed(0)
        inner = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.Tanh(), torch.nn.Linear(7, 6))
        layers = [nn.Linear(8, 6), nn.Tanh(), nn.Block(inner), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, CLASSES)]
        hidden = rule(scale)
        net = nn.Sequential(*layers)
        net.double().set_rule(["bp" if below == "bp" else hidden, hidden, "bp"])
        F.cross_entropy(net(x, target), target, reduction=reduction).backward()
        found.append(gradients(net))
    means, sums = found
    torch.testing.assert_close(sums, [N * mean for mean in means])


@pytest.mark.parametrize("scale", [0, -1.0, "N", True])
def test_a_scale_that_is_none_is_refused(scale: object) -> None:
    with pytest.raises((ValueError, TypeError), match=f"error_scale: expected .* got {scale!r}"):
        rules.PEPITA(error_scale=scale)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="error_scale: DFA is linear in e"):
        rules.DFA(error_scale=2.0)
