"""A network reads a module in place of calling it only while the module computes what its type says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign
import fastalign.nn as nn
from fastalign.ops.activations import Activation

RULES = ["bp", "fa", "dfa", "ifa", "drtp", "pepita"]
X = torch.rand(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
IMAGES = torch.rand(3, 2, 9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.tensor([0, 3, 1, 1, 2, 0])


def dense(activation: torch.nn.Module, rule: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 7), activation, nn.Linear(7, 4), rule=rule).double()


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)]
    return nn.Sequential(*layers, rule="dfa", input_shape=(2, 9, 9)).double()


def outputs_of_modules(net: nn.Sequential, x: Tensor) -> Tensor:
    return torch.nn.Sequential(*net)(x)


def learned(net: nn.Sequential) -> list[Tensor]:
    net.zero_grad()
    F.cross_entropy(net(X, Y), Y).backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


CHANGES: dict[str, tuple[Callable[[], torch.nn.Module], str, Any]] = {
    "leaky relu": (nn.LeakyReLU, "negative_slope", 0.3),
    "leaky relu, to what the kernels know": (lambda: nn.LeakyReLU(0.3), "negative_slope", 0.01),
    "softplus, beta": (nn.Softplus, "beta", 5.0),
    "softplus, threshold": (nn.Softplus, "threshold", 0.1),
    "elu": (nn.ELU, "alpha", 3.0),
    "gelu": (nn.GELU, "approximate", "tanh"),
    "a tensor": (nn.LeakyReLU, "negative_slope", torch.tensor(0.3)),
    "another class": (nn.Tanh, "__class__", torch.nn.Sigmoid),
    "forward": (nn.Tanh, "forward", torch.sin),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_after_the_rule_was_set_is_seen(change: str, rule: str) -> None:
    """The outputs are those of the modules, the updates those of a network whose rule was set afterwards."""
    make, name, value = CHANGES[change]
    net = dense(make(), rule)
    learned(net)
    setattr(net[1], name, value)
    torch.testing.assert_close(net(X, Y), outputs_of_modules(net, X))
    expected = copy.deepcopy(net)
    torch.testing.assert_close(learned(net), learned(expected))
    if rule == "bp":
        plain = torch.nn.Sequential(*copy.deepcopy(list(net)))
        plain.zero_grad()
        F.cross_entropy(plain(X), Y).backward()
        torch.testing.assert_close(learned(net), [p.grad for p in plain.parameters()])


def test_a_change_back_is_seen() -> None:
    net = dense(nn.Tanh(), "dfa")
    expected = learned(net)
    vars(net[1])["forward"] = torch.sin
    assert not torch.equal(learned(net)[2], expected[2])
    del vars(net[1])["forward"]
    assert all(map(torch.equal, learned(net), expected))


def test_an_activation_within_a_layer_that_changes() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 7, activation="tanh"), nn.Linear(7, 4), rule="dfa").double()
    learned(net)
    vars(net[0])["activation"] = Activation.RELU
    torch.testing.assert_close(net(X), outputs_of_modules(net, X))
    torch.testing.assert_close(learned(net), learned(copy.deepcopy(net)))


@pytest.mark.parametrize(
    "change",
    [
        {"padding_mode": "circular", "_reversed_padding_repeated_twice": [1, 1, 1, 1]},
        {"stride": (2, 2)},
        {"dilation": (2, 2)},
        {"_conv_forward": lambda x, weight, bias: F.conv2d(x, weight.sign(), bias, padding=1)},
    ],
    ids=["padding mode", "stride", "dilation", "its inner function"],
)
def test_a_convolution_that_changes(change: dict[str, Any]) -> None:
    net = convolutional()
    net(IMAGES)
    for name, value in change.items():
        setattr(net[0], name, value)
    torch.testing.assert_close(net(IMAGES), outputs_of_modules(net, IMAGES))


@pytest.mark.parametrize("name", ["stride", "dilation"])
def test_a_convolution_that_changes_before_the_backward_pass(name: str) -> None:
    """The backward pass is that of the forward pass before it, as torch's."""
    net = convolutional()
    F.cross_entropy(net(IMAGES), Y[:3]).backward()
    expected = net.get_parameter("0.weight").grad
    net.zero_grad()
    loss = F.cross_entropy(net(IMAGES), Y[:3])
    setattr(net[0], name, (2, 2))
    loss.backward()
    torch.testing.assert_close(net.get_parameter("0.weight").grad, expected)


PATCHED: dict[str, tuple[type, str, Any]] = {
    "torch's linear layer": (
        torch.nn.Linear,
        "forward",
        lambda self, x: F.linear(x, self.weight / self.weight.norm(), self.bias),
    ),
    "our linear layer": (nn.Linear, "forward", lambda self, x: F.linear(x, self.weight.abs(), self.bias)),
    "tanh": (torch.nn.Tanh, "forward", lambda self, x: torch.sin(x)),
}


@pytest.mark.parametrize("patch", PATCHED)
@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_a_class_that_is_patched(patch: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = dense(nn.Tanh(), rule)
    before = net(X)
    monkeypatch.setattr(*PATCHED[patch])
    found = net(X)
    assert not torch.allclose(found, before)
    torch.testing.assert_close(found, outputs_of_modules(net, X))
    monkeypatch.undo()
    torch.testing.assert_close(net(X), before)


@pytest.mark.parametrize("rule", ["fa", "ifa", "pepita"])
def test_rules_that_need_a_plain_layer_say_so(rule: str) -> None:
    layers = [nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 4)]
    net = nn.Sequential(*layers, rule=rule).double()
    vars(layers[2])["forward"] = torch.sin
    with torch.no_grad():
        torch.testing.assert_close(net(X), outputs_of_modules(net, X))
    with pytest.raises(RuntimeError, match=r"Linear: its rule needs a plain layer, .* call set_rule again"):
        learned(net)
    if rule == "fa":
        net.set_rule(rule)
        learned(net)


def test_a_patched_output_layer_under_pepita() -> None:
    net = dense(nn.Tanh(), "pepita")
    vars(net[2])["forward"] = lambda x: x[:, :4]
    with pytest.raises(RuntimeError, match=r"needs a plain layer, .* call set_rule again"):
        net(X)


def test_nested_chains_and_dropout_with_a_forward_of_their_own() -> None:
    torch.manual_seed(0)
    inner = torch.nn.Sequential(nn.Linear(8, 7), nn.Tanh())
    net = nn.Sequential(inner, nn.Dropout(0.5), nn.Linear(7, 4), rule="dfa").double()
    vars(net[1])["forward"] = lambda x: 3 * x
    torch.testing.assert_close(net(X), outputs_of_modules(net, X))
    vars(inner)["forward"] = lambda x: inner[1](2 * inner[0](x))
    torch.testing.assert_close(net(X), outputs_of_modules(net, X))


def test_convert_keeps_a_patched_forward() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(8, 7), torch.nn.Linear(7, 4)
            vars(self.a)["forward"] = lambda x: F.linear(x, self.a.weight / self.a.weight.norm(), self.a.bias)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(x)))

    model = Model().double()
    net = fastalign.convert(model, rule="bp")
    torch.testing.assert_close(net(X), model(X))
    F.cross_entropy(model(X), Y).backward()
    expected = [p.grad for p in model.parameters()]
    torch.testing.assert_close(learned(net), expected)


def test_a_training_step_sees_it_too() -> None:
    """Though it was recorded before: the numbers are those of the plain loop."""
    weights = []
    for fused in (False, True):
        net = dense(nn.LeakyReLU(), "dfa")
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        step = fastalign.TrainStep(net, loss="cross_entropy", optimizer=optimizer)
        for i in range(8):
            if i == 4:
                vars(net[1])["negative_slope"] = 0.4
            if i == 6:
                vars(net[1])["forward"] = torch.sin
            if fused:
                step.step(X, Y)
            else:
                optimizer.zero_grad()
                F.cross_entropy(net(X), Y).backward()
                optimizer.step()
        torch.testing.assert_close(net(X), outputs_of_modules(net, X))
        weights.append([p.detach() for p in net.parameters()])
    torch.testing.assert_close(weights[1], weights[0])
