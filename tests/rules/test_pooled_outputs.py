"""Networks whose last layer is pooled: its classes, and the error that is sent, are those of the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

import fastalign
import fastalign.nn as nn
from fastalign import TrainStep, rules

N, CLASSES = 4, 5
MAPS = torch.rand(N, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SEQUENCES = torch.rand(N, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 4, 3])


class OverTime(torch.nn.Module):
    """The mean over the positions of a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


Modules = list[torch.nn.Module]


def average() -> Modules:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def maximum() -> Modules:
    return [nn.ReLU(), nn.MaxPool2d(6), nn.Flatten()]


def average_and_log_softmax() -> Modules:
    return [nn.AvgPool2d(6), nn.Flatten(), nn.Tanh(), nn.LogSoftmax(1)]


def repeated() -> Modules:
    """Its output has more units than its last layer."""
    return [nn.Tanh(), nn.Upsample(scale_factor=2), nn.Flatten()]


LAST: dict[str, tuple[Callable[[], Modules], int, int]] = {
    "average": (average, CLASSES, 2),
    "maximum": (maximum, CLASSES, 2),
    "log softmax": (average_and_log_softmax, CLASSES, 4),
    "repeated": (repeated, CLASSES * 144, 2),
}
"""The modules after the last layer, their classes, and how many modules from the end the error is read."""


def loss_of(output: Tensor) -> Tensor:
    return F.cross_entropy(output, Y)


def convolutional(rule: Any, last: str) -> nn.Sequential:
    torch.manual_seed(0)
    modules = [nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, CLASSES, 1), *LAST[last][0]()]
    return nn.Sequential(*modules, rule=rule, input_shape=(3, 8, 8)).double()


def expected(net: nn.Sequential, signal: Callable[[Tensor], Tensor], from_end: int) -> list[Tensor]:
    """The updates of a direct rule by autograd, for the signal that it makes of the error."""
    lower, f, upper, *rest = net
    a = lower(MAPS).detach().requires_grad_()
    h = f(a)
    output = upper(h.detach())
    after = [output := module(output) for module in rest]
    weights = list(upper.parameters())
    error, *own = torch.autograd.grad(loss_of(output), [after[-from_end], *weights])
    delta = torch.autograd.grad(h, a, signal(error.flatten(1)).reshape(h.shape))[0]
    return [*torch.autograd.grad(lower(MAPS), list(lower.parameters()), delta), *own]


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize(
    "rule", [rules.DFA(), rules.DFA(sign_of_error=True), rules.DRTP()], ids=["dfa", "sdfa", "drtp"]
)
def test_direct_rules(rule: rules.Rule, last: str) -> None:
    """B_l has a column for each unit of the output, and the output layer its true gradient."""
    _, classes, from_end = LAST[last]
    net = convolutional(rule, last)
    matrix = net.feedback[0]
    assert net.classes == classes
    assert matrix is not None
    assert matrix.shape == (4 * 36, classes)

    def signal(error: Tensor) -> Tensor:
        if isinstance(rule, rules.DRTP):
            error = F.one_hot(Y, classes).double() / N
        return (error.sign() / N if isinstance(rule, rules.DFA) and rule.sign_of_error else error) @ matrix.T

    plain = expected(net, signal, from_end)
    loss_of(net(MAPS, Y)).backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], plain)


def test_pepita() -> None:
    net = convolutional(rules.PEPITA(projection_scale=1.0), "average")
    assert net.projection is not None
    assert net.projection.shape == (3 * 64, CLASSES)
    loss_of(net(MAPS)).backward()
    lower, f, upper, *_ = net
    with torch.no_grad():
        output = torch.nn.Sequential(*net)(MAPS)
        error = output.softmax(1) - F.one_hot(Y, CLASSES)
        modulated = MAPS + (error @ net.projection.T).reshape(MAPS.shape)
        h, h_mod = f(lower(MAPS)), f(lower(modulated))
        positions = error.reshape(N, CLASSES, 1, 1).expand(-1, -1, 6, 6) / 36
    upper_plain = conv2d_weight(h_mod, upper.weight.shape, positions) / N
    lower_plain = conv2d_weight(modulated, lower.weight.shape, h - h_mod) / (36 * N)
    torch.testing.assert_close(upper.weight.grad, upper_plain)
    torch.testing.assert_close(lower.weight.grad, lower_plain)
    with pytest.raises(ValueError, match=r"rule: PEPITA\(output_error='modulated'\) takes softmax of a_L.*180 .* 5"):
        net.set_rule(rules.PEPITA(output_error="modulated"))


@pytest.mark.parametrize("rule", ["dfa", "ifa", "drtp", "pepita"])
def test_means_over_time(rule: str) -> None:
    torch.manual_seed(0)
    modules = [nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, CLASSES), OverTime()]
    net = nn.Sequential(*modules, rule=rule, input_shape=(6, 3)).double()
    assert net.classes == CLASSES
    assert {matrix.shape[1] for matrix in net.buffers()} == {CLASSES}
    loss_of(net(SEQUENCES, Y)).backward()
    if rule == "pepita":
        return
    matrix = net.feedback[0]
    assert matrix is not None
    h = torch.tanh(net[0](SEQUENCES))
    plain = torch.nn.Sequential(*net)(SEQUENCES)
    error = torch.autograd.grad(loss_of(plain), [plain, net[2].weight])
    signal = F.one_hot(Y, CLASSES) / N if rule == "drtp" else error[0]
    delta = (signal.double() @ matrix.T).reshape(h.shape) * (1 - h**2)
    torch.testing.assert_close(net[0].weight.grad, torch.einsum("nth,ntk->hk", delta, SEQUENCES))
    torch.testing.assert_close(net[2].weight.grad, error[1])


@pytest.mark.parametrize("rule", ["fa", "bp", ["fa", "dfa", "bp"], ["dfa", "bp", "bp"]], ids=str)
def test_rules_that_pass_through_the_last_layer_see_the_gradient_below_pooling(rule: Any) -> None:
    """A copy of the weights as FA's matrix gives backpropagation's gradient."""
    torch.manual_seed(0)
    modules = [nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 1), nn.Tanh(), nn.Conv2d(4, CLASSES, 1), *average()]
    net = nn.Sequential(*modules, rule=rule, input_shape=(3, 8, 8)).double()
    true = torch.autograd.grad(loss_of(torch.nn.Sequential(*net)(MAPS)), list(net.parameters()))
    loss_of(net(MAPS)).backward()
    found = [p.grad for p in net.parameters()]
    torch.testing.assert_close(found[4:], list(true[4:]))
    if "dfa" not in rule:
        torch.testing.assert_close(found, list(true))
    elif rule[0] == "dfa":
        torch.testing.assert_close(found[2:], list(true[2:]))


@pytest.mark.parametrize("memory", ["store", "recompute"])
@pytest.mark.parametrize("rule", ["dfa", "drtp", "pepita"])
def test_train_step(rule: str, memory: str) -> None:
    loop, fused = convolutional(rule, "average"), convolutional(rule, "average")
    optimizer = torch.optim.SGD(loop.parameters(), lr=0.1, momentum=0.9)
    step = TrainStep(
        fused,
        loss="cross_entropy",
        optimizer=torch.optim.SGD(fused.parameters(), lr=0.1, momentum=0.9),
        memory=memory,
    )
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(loop(MAPS, Y)).backward()
        optimizer.step()
        step.step(MAPS, Y)
    torch.testing.assert_close(list(fused.parameters()), list(loop.parameters()))


def test_labels_and_converted_networks() -> None:
    module = torch.nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, CLASSES, 1), *average()).double()
    net = fastalign.convert(module, "drtp", (3, 8, 8))
    assert net.classes == CLASSES
    net(MAPS, F.one_hot(Y, CLASSES).double()).sum().backward()
    with pytest.raises(ValueError, match="target: expected class indices from 0 to 4, got 9"):
        net(MAPS, torch.tensor([9, 1, 2, 3]))


def test_an_empty_batch() -> None:
    net = convolutional("dfa", "average")
    net(MAPS[:0]).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())
