"""Modules whose gradients would go past a rule are refused; those that only look like it learn as in torch."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fastalign.nn as nn

X = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 4
rules = pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "drtp"])
Function = Callable[["Module", Tensor], Tensor]


class Module(torch.nn.Module):
    """A matrix and a layer, which a function makes the output of; `other` is what it knows besides its attributes."""

    def __init__(self, function: Function, other: Callable[[Module], Any] = lambda module: None) -> None:
        super().__init__()
        self.w, self.linear = torch.nn.Parameter(torch.eye(8) + 0.1), torch.nn.Linear(8, 8)
        self.function = function
        self.other = (other(self),)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def network(module: torch.nn.Module, rule: str | None, first: bool = False) -> nn.Sequential:
    lower = [] if first else [nn.Linear(8, 8), nn.Tanh()]
    return nn.Sequential(*lower, module, nn.Linear(8, 4), rule=rule, input_shape=(8,))


class Gain(torch.nn.Module):
    """A scale, and so a link, that it reaches by a list."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(8))
        self.scales = [self.scale]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scales[0]


def closure() -> torch.nn.Module:
    """A function of a parameter that is held elsewhere, or nowhere."""
    outer = torch.nn.Linear(8, 8)
    return Module(lambda module, x: F.linear(module.linear(x), outer.weight) + x @ module.w)


LOST: dict[str, tuple[Callable[[], torch.nn.Module], str]] = {
    "a list": (lambda: Module(lambda m, x: x @ m.other[0][0] + m.linear(x), lambda m: [m.w]), "'module.w'"),
    "a dictionary": (lambda: Module(lambda m, x: m.linear(x) @ m.other[0]["w"], lambda m: {"w": m.w}), "'module.w'"),
    "a partial": (
        lambda: Module(lambda m, x: m.other[0](m.linear(x)), lambda m: functools.partial(F.linear, weight=m.w)),
        "'module.w'",
    ),
    "beside the attribute": (
        lambda: Module(lambda m, x: m.linear(x) @ m.w + x @ m.other[0][0], lambda m: [m.w]),
        "'module.w'",
    ),
    "a view": (lambda: Module(lambda m, x: m.linear(x) @ m.other[0], lambda m: m.w.t()), "'module.w'"),
    "a method": (
        lambda: Module(lambda m, x: m.other[0](m.linear(x).t()).t(), lambda m: m.linear.weight.matmul),
        "'module.linear.weight'",
    ),
    "of another module": (closure, r"one of shape \(8, 8\) that it does not hold"),
}


@rules
@pytest.mark.parametrize("name", LOST)
def test_parameters_that_are_no_attributes_are_refused(name: str, rule: str) -> None:
    make, parameter = LOST[name]
    message = rf"Block\(Module\): its forward reaches a parameter, {parameter}, otherwise than as an attribute"
    for first in (False, True):
        net = network(nn.Block(make()), rule, first)
        with pytest.raises(RuntimeError, match=message):
            net(X, Y)
        net.requires_grad_(False)
        net(X, Y)


@rules
def test_a_scale_that_is_no_attribute_is_refused(rule: str) -> None:
    net = network(Gain(), rule)
    with pytest.raises(RuntimeError, match="Gain: its forward reaches a parameter, 'scale', otherwise than as an"):
        net(X, Y)


def nested_leaf(module: Module, x: Tensor) -> Tensor:
    """The gradient of an energy, by a leaf of the module's own."""
    with torch.enable_grad():
        state = x.detach().requires_grad_()
        energy = (module.linear(state) @ module.w).square().sum()
        return x - 0.1 * torch.autograd.grad(energy, state, create_graph=True)[0]


def frozen_part(module: Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = module.linear(x)
    return x + h @ module.w


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.lstm(x.unsqueeze(1))[0][:, 0]


class Listed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ws = torch.nn.ParameterList(torch.eye(8) for _ in range(2))
        self.norm = parametrizations.weight_norm(torch.nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        for w in self.ws:
            x = x + self.norm(x @ w)
        return x


def functional(module: Module, x: Tensor) -> Tensor:
    parameters: dict[str, Tensor] = dict(module.linear.named_parameters())
    found: Tensor = torch.func.functional_call(module.linear, parameters, (x @ module.w,))
    return found


KEPT: dict[str, Callable[[], torch.nn.Module]] = {
    "attributes": lambda: Module(lambda m, x: m.linear(x) @ m.w),
    "unused": lambda: Module(lambda m, x: x @ m.w, lambda m: [m.linear.weight]),
    "a leaf of its own": lambda: Module(nested_leaf),
    "a frozen part": lambda: Module(frozen_part),
    "a recurrent layer": Recurrent,
    "lists of parameters": Listed,
    "functional_call": lambda: Module(functional),
    "a checkpoint": lambda: Module(lambda m, x: checkpoint(lambda h: m.linear(h) @ m.w, x, use_reentrant=False)),
}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", KEPT)
def test_modules_that_lose_nothing_learn_as_in_torch(name: str, first: bool) -> None:
    """Also where a parameter has no gradient, which torch leaves at None."""
    torch.manual_seed(0)
    net = network(KEPT[name](), "bp", first)
    plain = torch.nn.Sequential(*net)
    for _ in range(3):
        true = torch.autograd.grad(F.cross_entropy(plain(X), Y), list(net.parameters()), allow_unused=True)
        net.zero_grad()
        F.cross_entropy(net(X, Y), Y).backward()
        torch.testing.assert_close([p.grad for p in net.parameters()], list(true))
    for rule in ("dfa", "drtp"):
        net.set_rule(rule)
        net.zero_grad()
        F.cross_entropy(net(X, Y), Y).backward()
        assert [p.grad is None for p in net.parameters()] == [gradient is None for gradient in true]


class Saving(torch.nn.Module):
    """Two layers, the activities of one or both of which a checkpoint computes again."""

    def __init__(self, which: str) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8))
        self.which = which

    def forward(self, x: Tensor) -> Tensor:
        lower, f, upper = self.layers
        if self.which == "all":
            x = checkpoint(self.layers, x, use_reentrant=True)
        elif self.which == "lower":
            x = upper(checkpoint(lambda h: f(lower(h)), x, use_reentrant=True))
        elif self.which == "upper":
            x = checkpoint(upper, f(lower(x)), use_reentrant=True)
        elif self.which == "sequential":
            x = checkpoint_sequential(self.layers, 2, x, use_reentrant=True)
        else:
            x = self.layers(x)
        return x


@rules
@pytest.mark.parametrize("which", ["all", "lower", "upper", "sequential"])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpoints_are_refused(which: str, rule: str) -> None:
    for module in (nn.Block(Saving(which)), Saving(which)):
        net = network(module, rule, first=isinstance(module, Saving))
        with pytest.raises(RuntimeError, match=r"Saving\)?: torch.utils.checkpoint with use_reentrant=True runs"):
            net(X, Y)


@rules
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_checkpoint_that_is_turned_on_later_is_refused_at_the_step_after(rule: str) -> None:
    module = Saving("none")
    net = network(module, rule)

    def step() -> None:
        F.cross_entropy(net(X, Y), Y).backward()

    step()
    module.which = "lower"
    if rule in ("dfa", "drtp"):
        step()
    with pytest.raises(RuntimeError, match=r"use_reentrant=True"):
        step()


def test_warnings_of_the_module_itself_stay_what_they_are() -> None:
    def warn(module: Module, x: Tensor) -> Tensor:
        warnings.warn("look", stacklevel=2)
        return x @ module.w

    net = network(Module(warn), "bp")
    with pytest.warns(UserWarning, match="look"):
        net(X)
    net = network(Module(warn), "bp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="look"):
            net(X)
