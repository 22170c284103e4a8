"""A rule that nothing runs says so; what is assigned after set_rule takes effect, or asks for set_rule."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign.nn as nn
from fastalign import TrainStep, rules

X = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
MAPS = torch.rand(6, 2, 5, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 4


class Own(torch.nn.Module):
    def __init__(self, rule: str | None) -> None:
        super().__init__()
        self.lower, self.upper = nn.Linear(8, 7, rule=rule), nn.Linear(7, 4, rule=rule)

    def forward(self, x: Tensor) -> Tensor:
        return self.upper(torch.tanh(self.lower(x)))


class Loop(nn.Sequential):
    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        for module in self:
            x = module(x)
        return x


def layers(rule: str | None = "dfa") -> list[torch.nn.Module]:
    return [nn.Linear(8, 7, rule=rule), nn.Tanh(), nn.Linear(7, 4, rule=rule)]


def in_turn(network: torch.nn.Sequential, x: Tensor) -> Tensor:
    for module in network:
        x = module(x)
    return x


IGNORED: dict[str, tuple[Callable[[], Any], Callable[[Any], Tensor]]] = {
    "module of one's own": (lambda: Own("dfa"), lambda net: net(X)),
    "Sequential without a rule": (lambda: nn.Sequential(*layers()), lambda net: net(X)),
    "Sequential of torch": (lambda: torch.nn.Sequential(*layers("pepita")), lambda net: net(X)),
    "subclass with a forward": (lambda: Loop(*layers()), lambda net: net(X)),
    "loop over the layers": (lambda: nn.Sequential(*layers(), rule="dfa"), lambda net: in_turn(net, X)),
    "slice": (lambda: nn.Sequential(*layers(), rule="dfa")[:], lambda net: net(X)),
    "convolution": (lambda: torch.nn.Sequential(nn.Conv2d(2, 4, 5, rule="drtp"), nn.Flatten()), lambda net: net(MAPS)),
    "block": (lambda: nn.Block(torch.nn.Linear(8, 4), rule="fa"), lambda net: net(X)),
    "hidden in a block": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Block(Own("fa")), nn.Linear(4, 4), rule="dfa"),
        lambda net: net(X),
    ),
}


@pytest.mark.parametrize("name", IGNORED)
def test_a_rule_that_no_network_runs_is_said_to_be_ignored(name: str) -> None:
    make, call = IGNORED[name]
    network = make()
    with pytest.warns(UserWarning, match=r"(Linear|Conv2d|Block): its rule '\w+' is not in effect and it learns by"):
        call(network).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.no_grad():
            call(network)
        network.requires_grad_(False)
        call(network)


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "drtp"])
def test_a_rule_in_effect_is_not_warned_of(rule: str) -> None:
    """Nor is backpropagation, which is what a layer by itself does."""
    block = nn.Block(torch.nn.Sequential(nn.Linear(7, 7, rule="bp"), nn.Tanh()), rule=rule)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        modules = [nn.Linear(8, 7, rule=rule), nn.Tanh(), torch.nn.Sequential(block), nn.Linear(7, 7, rule=rule)]
        net = nn.Sequential(*modules, nn.Tanh(), nn.Linear(7, 4), rule=rule)
        F.cross_entropy(net(X, Y), Y).backward()
        nn.Sequential(*layers("bp"))(X).sum().backward()


def test_a_network_with_a_forward_of_its_own_takes_no_rule() -> None:
    with pytest.raises(TypeError, match=r"rule: Loop has a forward of its own, which a rule does not run; expected"):
        Loop(*layers(None), rule="dfa")
    net = nn.Sequential(*layers(None))
    vars(net)["forward"] = lambda x: in_turn(net, x)
    with pytest.raises(TypeError, match=r"rule: Sequential has a forward of its own"):
        net.set_rule("fa")


def learned(net: torch.nn.Module) -> list[Tensor]:
    net.zero_grad()
    F.cross_entropy(net(X), Y).backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def test_a_rule_that_is_assigned_takes_effect() -> None:
    net = nn.Sequential(*layers(None), rule="dfa")
    true = learned(torch.nn.Sequential(*net))
    for rule in ("bp", rules.BP(), ["bp", "bp"], None):
        net.rule = "dfa"
        assert isinstance(net.rule, rules.DFA)
        assert not torch.allclose(learned(net)[0], true[0])
        net.rule = rule
        torch.testing.assert_close(learned(net), true)
        assert not list(net.buffers())
    assert "rule" not in repr(net)
    assert net.layer_rules == ()
    with pytest.raises(ValueError, match=r"rule: expected one of bp, .* got 'nonsense'"):
        net.rule = "nonsense"


def by_loop(net: nn.Sequential) -> None:
    learned(net)


def by_step(net: nn.Sequential) -> None:
    net.step.step(X, Y)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("train", [by_loop, by_step])
def test_what_is_assigned_below_the_network_asks_for_set_rule(train: Callable[[nn.Sequential], None]) -> None:
    """Also where a `TrainStep` has begun to replay its steps."""

    def net() -> nn.Sequential:
        net = nn.Sequential(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 6, rule="fa"), nn.Linear(6, 4), rule="dfa")
        vars(net)["step"] = TrainStep(net, loss="cross_entropy", optimizer=torch.optim.SGD(net.parameters(), 0.1))
        for _ in range(4):
            train(net)
        return net

    def assign(thing: Any, name: str, value: object) -> None:
        setattr(thing, name, value)

    changes: list[tuple[Callable[[Any], None], str]] = [
        (
            lambda net: assign(net[0], "rule", "fa"),
            r"rule: that of layer 0, Linear\(in_features=8.* call set_rule again",
        ),
        (
            lambda net: assign(net[2], "rule", None),
            r"rule: that of layer 1, Linear\(in_features=7.* call set_rule again",
        ),
        (lambda net: assign(net, "input_shape", (8,)), r"input_shape: \(8,\) was assigned .*; call set_rule again"),
    ]
    for change, message in changes:
        changed = net()
        change(changed)
        with pytest.raises(RuntimeError, match=message):
            train(changed)
        changed.set_rule("dfa")
        train(changed)


def test_a_rule_of_a_layer_is_assigned_by_name() -> None:
    layer = nn.Linear(3, 3)
    layer.rule = "dfa"
    assert isinstance(layer.rule, rules.DFA)
    assert "rule=DFA(" in repr(layer)
    with pytest.raises(ValueError, match=r"rule: expected one of bp, .* got 'nonsense'"):
        layer.rule = "nonsense"


def blocks(rule: Any, *between: torch.nn.Module) -> nn.Sequential:
    whole = [nn.Block(torch.nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))) for _ in range(3)]
    return nn.Sequential(whole[0], *between, *whole[1:], rule=rule, input_shape=(8,))


@pytest.mark.parametrize(
    "make",
    [
        lambda: blocks("fa"),
        lambda: blocks(["bp", "fa", "dfa"]),
        lambda: nn.Sequential(nn.Block(torch.nn.Sequential(*layers(None))), rule="dfa", input_shape=(8,)),
        lambda: nn.Sequential(*layers(None), nn.Block(nn.Linear(4, 4)), rule=["bp", "fa", "fa"]),
    ],
    ids=["fa between blocks", "each its own", "all in one block", "below a block"],
)
def test_a_rule_that_comes_to_backpropagation_is_said_to(make: Callable[[], nn.Sequential]) -> None:
    with pytest.warns(UserWarning, match=r"rule: under \w+\(.*\) all of this network learns by backpropagation"):
        make()


@pytest.mark.parametrize("rule", ["bp", "dfa", ["fa", "dfa", "fa"]])
def test_a_rule_that_comes_to_more_is_not_warned_of(rule: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        blocks(rule)
        nn.Sequential(nn.Linear(8, 4), rule="dfa")
