"""Writes in place: to what a step has kept, which autograd notices; and by modules into their input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign
import fastalign.nn as nn
from fastalign import TrainStep

X = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 4

TARGETS: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "one-hot rows": lambda: ((t := F.one_hot(Y, 4).float()), t),
    "integers": lambda: ((t := F.one_hot(Y, 4)), t),
    "another dtype": lambda: ((t := F.one_hot(Y, 4).double()), t),
    "a mixture": lambda: ((t := F.one_hot(Y, 4).float().lerp(torch.full((6, 4), 0.25), 0.3)), t),
    "part of a buffer": lambda: ((t := F.one_hot(Y, 4).float().repeat(2, 1))[:6], t),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("rule", ["drtp", ["drtp", "dfa"]])
def test_a_target_that_is_overwritten_before_backward(name: str, rule: str | list[str]) -> None:
    target, buffer = TARGETS[name]()
    net = nn.Sequential(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 4), rule=rule)
    loss = F.cross_entropy(net(X, target), Y)
    buffer.zero_()
    with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
        loss.backward()


def test_class_indices_may_be_overwritten() -> None:
    """The step has made rows of them."""
    net = nn.Sequential(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 4), rule="drtp")
    found = []
    for overwrite in (False, True):
        net.zero_grad()
        indices = Y.clone()
        loss = F.cross_entropy(net(X, indices), Y)
        if overwrite:
            indices.zero_()
        loss.backward()
        found.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


Function = Callable[[Tensor], Tensor]


def sub_(x: Tensor) -> Tensor:
    x -= 0.1
    return x


def column_(x: Tensor) -> Tensor:
    x[:, 0] = 0
    return x


def view_(x: Tensor) -> Tensor:
    x.t()[1].mul_(3)
    return x * 2


def out_(x: Tensor) -> Tensor:
    return torch.sin(x, out=x) if not torch.is_grad_enabled() else x.sin_()


class Elementwise(torch.nn.Module):
    """A function that works in place, or the same on a copy."""

    def __init__(self, function: Function, in_place: bool) -> None:
        super().__init__()
        self.function, self.in_place = function, in_place

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x if self.in_place else x.clone())


class Positions(Elementwise):
    """With a weight, so that it is a block."""

    def __init__(self, function: Function, in_place: bool) -> None:
        super().__init__(function, in_place)
        self.linear = torch.nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(super().forward(x))
        return found.tanh()


class Sometimes(Elementwise):
    """Works in place from the third call on."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x if self.calls > 2 else x.clone())


FUNCTIONS: dict[str, Function] = {
    "clamp_": lambda x: x.clamp_(0.3),
    "relu_": lambda x: F.relu_(x),
    "-=": sub_,
    "a column": column_,
    "a view": view_,
    "sin_": out_,
}
Make = Callable[[type[Elementwise], Function, bool], list[torch.nn.Module]]
NETWORKS: dict[str, tuple[Make, list[str]]] = {
    "after a layer": (
        lambda kind, f, i: [nn.Linear(8, 7, bias=False), kind(f, i), nn.Linear(7, 4)],
        ["bp", "fa", "dfa", "ifa", "drtp", "pepita"],
    ),
    "after tanh": (
        lambda kind, f, i: [nn.Linear(8, 7), nn.Tanh(), kind(f, i), nn.Sigmoid(), nn.Linear(7, 4)],
        ["bp", "fa", "dfa", "ifa", "drtp", "pepita"],
    ),
    "first": (
        lambda kind, f, i: [kind(f, i), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 4)],
        ["bp", "fa", "dfa", "ifa", "drtp", "pepita"],
    ),
    "last": (
        lambda kind, f, i: [nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 4), nn.Tanh(), kind(f, i)],
        ["bp", "fa", "dfa", "ifa", "drtp", "pepita"],
    ),
    "blocks": (
        lambda kind, f, i: [nn.Linear(8, 7), nn.Tanh(), Positions(f, i), Positions(f, i), kind(f, i), nn.Linear(7, 4)],
        ["bp", "fa", "dfa", "drtp"],
    ),
}


def gradients(make: Callable[[], list[torch.nn.Module]], rule: str, steps: int) -> list[list[Tensor | None]]:
    torch.manual_seed(0)
    net = nn.Sequential(*make(), rule=rule)
    found = []
    for _ in range(steps):
        net.zero_grad()
        F.cross_entropy(net(X, Y), Y).backward()
        found.append([p.grad for p in net.parameters()])
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("place", "rule"), [(place, rule) for place, (_, rules) in NETWORKS.items() for rule in rules])
@pytest.mark.parametrize("kind", [Elementwise, Sometimes])
def test_modules_that_work_in_place_learn_as_on_a_copy(
    name: str, place: str, rule: str, kind: type[Elementwise]
) -> None:
    make, _ = NETWORKS[place]
    x = X.clone()
    in_place, on_a_copy = (
        gradients(partial(make, kind, FUNCTIONS[name], i), rule, steps=4 if kind is Sometimes else 1)
        for i in (True, False)
    )
    torch.testing.assert_close(in_place, on_a_copy, rtol=0, atol=0)
    torch.testing.assert_close(X, x, rtol=0, atol=0)


def test_a_converted_forward_that_works_in_place() -> None:
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lower, self.middle, self.upper = (torch.nn.Linear(8, n) for n in (8, 8, 4))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.lower(x))
            h = h + self.middle(h.mul_(2).sub_(1))
            found: Tensor = self.upper(h)
            return found

    module = Module()
    plain = list(module.parameters())
    with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
        F.cross_entropy(module(X), Y).backward()
    module.zero_grad()
    net = fastalign.convert(module, "bp")
    F.cross_entropy(net(X), Y).backward()
    h = torch.tanh(module.lower(X)) * 2 - 1
    true = torch.autograd.grad(F.cross_entropy(module.upper(h + module.middle(h)), Y), plain)
    torch.testing.assert_close([p.grad for p in plain], list(true))


def test_a_first_module_that_works_in_place_runs_twice_on_the_same_input() -> None:
    """Where activities are computed again."""
    found = []
    for memory in ("store", "recompute"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.CELU(inplace=True), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 4), rule="dfa")
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        step = TrainStep(net, loss="cross_entropy", optimizer=optimizer, memory=memory)
        x = X - 0.5
        step.step(x, Y)
        torch.testing.assert_close(x, X - 0.5, rtol=0, atol=0)
        found.append([p.detach() for p in net.parameters()])
    torch.testing.assert_close(found[1], found[0])
