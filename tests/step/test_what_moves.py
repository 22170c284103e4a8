"""A training step is the plain loop's where weights share memory, losses have parameters, and modules raise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import OPTIMIZERS, RULES
from torch import Tensor

import fastalign.nn as nn
from fastalign import TrainStep, rules
from fastalign.step.memory import share_memory

X, LABELS = torch.randn(6, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
TIED = [rule for rule in RULES if not rule.startswith("pepita, frozen")]


def trained_alike(make: Callable[[], nn.Sequential], optimizer: str, memory: str) -> None:
    """Five steps of TrainStep leave what five of the plain loop leave."""
    plain, fused = make(), make()
    plain_optimizer, fused_optimizer = (OPTIMIZERS[optimizer](list(net.parameters())) for net in (plain, fused))
    step = TrainStep(fused, loss="cross_entropy", optimizer=fused_optimizer, memory=memory)
    for _ in range(5):
        F.cross_entropy(plain(X, LABELS), LABELS).backward()
        plain_optimizer.step()
        plain_optimizer.zero_grad()
        step.step(X, LABELS)
    for found, expected in zip(fused.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def transposed(net: Any) -> None:
    net[4].weight.data = net[2].weight.data.t()


def of_one_tensor(net: Any) -> None:
    flat = torch.randn(200, dtype=torch.float64)
    net[2].weight.data, net[4].weight.data = flat[:64].view(8, 8), flat[32:96].view(8, 8)  # they overlap in a half


def bias_in_weight(net: Any) -> None:
    net[4].bias.data = net[2].weight.data[3]


def feedback_is_weight(net: Any) -> None:
    for name, matrix in net.named_buffers():
        if matrix.shape == (8, 8):
            setattr(net, name, net[4].weight.detach())


@pytest.mark.parametrize("memory", ["store", "recompute"])
@pytest.mark.parametrize("optimizer", ["sgd, weight decay", "sgd, momentum", "adam"])
@pytest.mark.parametrize("tie", [transposed, of_one_tensor, bias_in_weight, feedback_is_weight])
@pytest.mark.parametrize("rule", TIED)
def test_weights_that_share_memory(rule: str, tie: Callable[[Any], None], optimizer: str, memory: str) -> None:
    if memory == "recompute" and rule in ("bp", "fa"):
        pytest.skip("it needs the weights of all layers at once, and so stores")

    def make() -> nn.Sequential:
        torch.manual_seed(3)
        layers = [nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)]
        net = nn.Sequential(*layers, rule=copy.copy(RULES[rule])).double()
        tie(net)
        return net

    trained_alike(make, optimizer, memory=memory)


def test_weights_tied_after_a_recording() -> None:
    """The replays of before are not made any more."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)]
    fused = nn.Sequential(*layers, rule="bp").double()
    plain = copy.deepcopy(fused)
    optimizer, plain_optimizer = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (fused, plain))
    step = TrainStep(fused, loss="cross_entropy", optimizer=optimizer)
    for i in range(8):
        if i == 4:
            transposed(fused)
            transposed(plain)
        step.step(X, LABELS)
        F.cross_entropy(plain(X), LABELS).backward()
        plain_optimizer.step()
        plain_optimizer.zero_grad()
    torch.testing.assert_close(list(fused.parameters()), list(plain.parameters()), rtol=1e-9, atol=1e-12)


def test_memory_is_shared() -> None:
    flat = torch.zeros(10)
    assert share_memory([flat[:6], flat[5:]])
    assert not share_memory([flat[:5], flat[5:]])
    assert share_memory([flat, torch.zeros(3), flat.view(2, 5).t()])
    assert not share_memory([flat[:0], flat, torch.zeros(10)])
    assert share_memory([flat[2:4]], [flat])
    assert share_memory([flat[8:]], [torch.zeros(3), flat[:9], flat[:2]])
    assert not share_memory([torch.zeros(3)], [flat, flat[2:]])


class Weighted(torch.nn.Module):
    """A loss that weighs itself: exp(−s) · loss + s."""

    def __init__(self) -> None:
        super().__init__()
        self.s = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels) * torch.exp(-self.s) + self.s


class Centers(torch.nn.Module):
    """The distance of outputs from a learned center for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.centers = torch.nn.Parameter(torch.eye(3, dtype=torch.float64))

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs - self.centers[labels]).square().mean()


@pytest.mark.parametrize("optimizer", ["sgd", "sgd, momentum", "adam"])
@pytest.mark.parametrize("kind", ["weighted", "centers", "penalty", "both", "consistency"])
@pytest.mark.parametrize("rule", ["bp", "dfa", "pepita"])
def test_losses_that_depend_on_parameters(rule: str, kind: str, optimizer: str) -> None:
    """Each gets the sum of its update and the loss's own gradient of it, as in the plain loop."""
    trained = []
    for fused in (False, True):
        torch.manual_seed(2)
        net = nn.Sequential(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3), rule=copy.copy(RULES[rule])).double()
        own = Centers() if kind == "centers" else Weighted()

        def loss(outputs: Tensor, labels: Tensor, net: nn.Sequential = net, own: torch.nn.Module = own) -> Tensor:
            value = F.cross_entropy(outputs, labels) if kind in ("penalty", "consistency") else own(outputs, labels)
            if kind in ("penalty", "both"):
                value = value + 0.1 * sum(p.square().sum() for p in net.parameters())
            if kind == "consistency":
                value = value + (net(X + 0.1, LABELS) - outputs.detach()).square().mean()
            return torch.as_tensor(value)

        parameters = [*net.parameters(), *own.parameters()]
        make = OPTIMIZERS[optimizer](parameters)
        step = TrainStep(net, loss=loss, optimizer=make)
        for _ in range(5):
            if fused:
                step.step(X, LABELS)
            else:
                loss(net(X, LABELS), LABELS).backward()
                make.step()
                make.zero_grad()
        trained.append(parameters)
    torch.testing.assert_close(*trained, rtol=1e-9, atol=1e-12)


class Failing(torch.autograd.Function):
    """The identity, whose backward may be told to fail."""

    fails = False

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        if Failing.fails:
            raise RuntimeError("it failed")
        return gradient


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(Failing.apply(self.linear(x)))


class Link(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(Failing.apply(x))


class FailingRule(rules.BP):
    name = "failing"

    def updates(self, step: Any, layers: Any, above: Any) -> Any:
        for i, update in enumerate(super().updates(step, layers, above)):
            if i and Failing.fails:
                raise RuntimeError("it failed")
            yield update


@pytest.mark.parametrize("optimizer", ["sgd, momentum", "adam"])
@pytest.mark.parametrize("which", ["block", "link", "rule"])
@pytest.mark.parametrize("rule", ["bp", "fa", "dfa"])
def test_after_an_exception_everything_is_as_it_was(
    rule: str, which: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    middle = nn.Block(Layer()) if which == "block" else torch.nn.Sequential(Link(), torch.nn.Linear(8, 8))
    learned_by = FailingRule() if which == "rule" else rule
    layers = [nn.Linear(8, 8), nn.Tanh(), middle, nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)]
    net = nn.Sequential(*layers, rule=learned_by, input_shape=(8,)).double()
    made = OPTIMIZERS[optimizer](list(net.parameters()))
    step = TrainStep(net, loss="cross_entropy", optimizer=made)
    for _ in range(4):
        step.step(X, LABELS)
    before = copy.deepcopy((net.state_dict(), made.state_dict()))
    monkeypatch.setattr(Failing, "fails", True)
    if not (rule == "dfa" and which == "link"):  # DFA sends no signal through it
        with pytest.raises(RuntimeError, match="it failed"):
            step.step(X, LABELS)
        torch.testing.assert_close((net.state_dict(), made.state_dict()), before, rtol=0, atol=0)
    monkeypatch.setattr(Failing, "fails", False)
    step.step(X, LABELS)
