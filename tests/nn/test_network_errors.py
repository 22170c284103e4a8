"""What is wrong is said: the argument, what came, what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import prune

import fastalign.nn as nn
from fastalign import initialise, rules

X = torch.rand(5, 8)


def dense(rule: Any) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 7, activation="tanh"), nn.Linear(7, 4), rule=rule)


def convolutional(rule: Any, input_shape: Any = (2, 8, 8)) -> nn.Sequential:
    layers: list[torch.nn.Module] = [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Conv2d(3, 4, 1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 4), rule=rule, input_shape=input_shape)


def uneven(rule: Any) -> nn.Sequential:
    """Its first layer hands on as many units as there are places in the input."""
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), rule=rule, input_shape=(2, 8, 8))


INPUTS: list[tuple[str, Callable[[], object], type[Exception], str]] = [
    (
        "width",
        lambda: dense("dfa")(torch.rand(5, 9)),
        ValueError,
        r"input: expected shape \(N, 8\) for Linear\(.*\), got \(5, 9\)",
    ),
    (
        "rank",
        lambda: dense("dfa")(torch.rand(8)),
        ValueError,
        r"input: expected a batch of samples .* got shape \(8,\)",
    ),
    (
        "dtype",
        lambda: dense("dfa")(X.double()),
        TypeError,
        r"input: expected dtype torch.float32, that of Linear\(.*\), got torch.float64",
    ),
    (
        "device",
        lambda: dense("dfa")(X.to("meta")),
        ValueError,
        r"input: expected device cpu, that of Linear\(.*\), got meta",
    ),
    (
        "channels",
        lambda: convolutional("dfa")(torch.rand(5, 3, 8, 8)),
        ValueError,
        r"input: expected shape \(N, 2, H, W\) for Conv2d\(.*\), got \(5, 3, 8, 8\)",
    ),
    (
        "no batch",
        lambda: convolutional("bp")(torch.rand(2, 8, 8)),
        ValueError,
        r"input: expected shape \(N, 2, H, W\) for Conv2d\(.*\), got \(2, 8, 8\)",
    ),
    (
        "another size than input_shape",
        lambda: uneven("dfa")(torch.rand(5, 2, 9, 8)),
        ValueError,
        (
            r"input: samples of shape \(2, 9, 8\) ask for a fixed matrix of \(126, 80\) at Conv2d.* has one of "
            r"\(108, 64\); expected samples of the network's input_shape"
        ),
    ),
    (
        "another size than input_shape, PEPITA",
        lambda: convolutional("pepita")(torch.rand(5, 2, 9, 8)),
        ValueError,
        r"input: expected samples of 128 numbers \(projection F\), got shape \(5, 2, 9, 8\)",
    ),
    (
        "places without input_shape",
        lambda: dense("dfa")(torch.rand(5, 3, 8)),
        ValueError,
        r"input: samples of shape \(3, 8\) ask for a fixed matrix of \(21, 12\) at Linear.* one of \(7, 4\)",
    ),
]

TARGETS: list[tuple[str, Callable[[], object], type[Exception], str]] = [
    ("none", lambda: dense("drtp")(X), ValueError, r"target: DRTP needs it while training, call net\(x, target\)"),
    (
        "too few",
        lambda: dense("drtp")(X, torch.zeros(4, dtype=torch.int64)),
        ValueError,
        (
            r"target: expected class indices of shape \(5,\) or one-hot rows of shape \(5, 4\), "
            r"got torch.int64 of shape \(4,\)"
        ),
    ),
    (
        "too wide",
        lambda: dense("drtp")(X, torch.zeros(5, 6)),
        ValueError,
        r"target: expected class indices .* got torch.float32 of shape \(5, 6\)",
    ),
    (
        "no indices",
        lambda: dense("drtp")(X, torch.zeros(5)),
        ValueError,
        r"target: expected class indices .* got torch.float32 of shape \(5,\)",
    ),
    (
        "no such class",
        lambda: dense("drtp")(X, torch.tensor([0, 1, 2, 3, 4])),
        ValueError,
        r"target: expected class indices from 0 to 3, got 4",
    ),
    (
        "a negative class",
        lambda: dense("drtp")(X, torch.tensor([0, 1, 2, 3, -1])),
        ValueError,
        r"target: expected class indices from 0 to 3, got -1",
    ),
]

SETTINGS: list[tuple[str, Callable[[], object], type[Exception], str]] = [
    ("rule", lambda: dense("dfaa"), ValueError, r"rule: expected one of bp, fa, dfa, ifa, drtp, pepita, got 'dfaa'"),
    ("rule type", lambda: dense(3), TypeError, r"rule: expected a rule, a name, or one for each layer, got int"),
    ("rules", lambda: dense(["bp"]), ValueError, r"rule: expected one for each of the 2 layers, got 1"),
    ("rules type", lambda: dense(["bp", 3]), TypeError, r"rule: expected a rule or a name, got int"),
    ("class", lambda: dense(rules.DFA), TypeError, r"rule: expected a rule, a name, .* got type"),
    ("no layers", lambda: nn.Sequential(nn.ReLU(), rule="bp"), ValueError, r"rule: a network needs at least one layer"),
    (
        "activation",
        lambda: nn.Linear(3, 3, activation="thanh"),
        ValueError,
        r"activation: expected one of identity, tanh, .* got 'thanh'",
    ),
    ("activation type", lambda: nn.Conv2d(3, 3, 3, activation=1.5), TypeError, r"activation: expected a name .* float"),  # type: ignore[arg-type]
    ("layer's rule", lambda: nn.Linear(3, 3, rule="x"), ValueError, r"rule: expected one of bp, .* got 'x'"),
    ("dfa", lambda: rules.DFA(feedback="x"), ValueError, r"feedback: expected one of uniform-fan-out, .* got 'x'"),
    ("drtp", lambda: rules.DRTP(feedback="x"), ValueError, r"feedback: expected one of .* got 'x'"),
    ("ifa", lambda: rules.IFA(feedback="x"), ValueError, r"feedback: expected one of .* got 'x'"),
    ("fa", lambda: rules.FA(feedback="x"), ValueError, r"feedback: expected one of .*weights.* got 'x'"),
    ("projection", lambda: rules.PEPITA(projection="x"), ValueError, r"projection: expected one of .* got 'x'"),
    (
        "presynaptic",
        lambda: rules.PEPITA(presynaptic="x"),
        ValueError,
        r"presynaptic: expected one of modulated, .*'x'",
    ),
    ("output error", lambda: rules.PEPITA(output_error="x"), ValueError, r"output_error: expected one of .* got 'x'"),
    ("output", lambda: rules.PEPITA(output="relu"), ValueError, r"output: expected one of softmax, .* got 'relu'"),
    ("divisor", lambda: rules.PEPITA(divisor="x"), ValueError, r"divisor: expected one of mean, .* got 'x'"),
    (
        "hebbian",
        lambda: rules.PEPITA(update="hebbian", presynaptic="standard"),
        ValueError,
        r"presynaptic: the hebbian update .*expected 'modulated'",
    ),
    ("initialisation", lambda: initialise(dense("bp"), "x"), ValueError, r"name: expected one of zero, .* got 'x'"),
    (
        "input_shape",
        lambda: convolutional("dfa", None),
        ValueError,
        r"input_shape: DFA\(.* expected the shape of one sample, for example \(3, 32, 32\), got None",
    ),
    (
        "input_shape that does not fit",
        lambda: convolutional("pepita", (3, 8, 8)),
        ValueError,
        r"input_shape: the network does not take samples of shape \(3, 8, 8\): .*",
    ),
]


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [case[1:] for case in (*INPUTS, *TARGETS, *SETTINGS)],
    ids=[case[0] for case in (*INPUTS, *TARGETS, *SETTINGS)],
)
def test_errors(run: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run()


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "ifa", "drtp", "pepita"])
def test_every_rule_takes_a_target(rule: str) -> None:
    """As indices or as one-hot rows, which are the same."""
    net = dense(rule)
    indices = torch.tensor([0, 3, 1, 1, 2])
    found: list[list[Tensor]] = []
    for target in (indices, indices.int(), torch.eye(4)[indices], torch.eye(4, dtype=torch.int64)[indices]):
        net.zero_grad()
        net(X, target).square().mean().backward()
        found.append([p.grad for p in net.parameters() if p.grad is not None])
    for gradients in found[1:]:
        torch.testing.assert_close(gradients, found[0], rtol=0, atol=0)


def mask(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


def sequences() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3))


@pytest.mark.parametrize("rule", [None, "bp", "fa", "dfa", "ifa", "drtp", "pepita"])
@pytest.mark.parametrize(
    "second",
    [
        mask(5, 8),
        mask(5),
        mask(8),
        torch.rand(5),
        torch.rand(5, 5),
        torch.zeros(3, 7),
        torch.zeros((), dtype=torch.int64),
    ],
    ids=lambda second: f"{second.dtype}{tuple(second.shape)}",
)
@pytest.mark.parametrize("train", [True, False])
def test_a_second_input_that_is_no_target_is_refused(rule: str | None, second: Tensor, train: bool) -> None:
    with pytest.raises(
        ValueError, match=r"target: expected class indices of shape \(5,\) .* no module is given a second"
    ):
        dense(rule).train(train)(X, second)


def test_targets_of_positions_and_maps() -> None:
    """Whatever a loss takes, where no rule asks for rows of classes."""
    x, indices = torch.rand(5, 6, 8), torch.zeros(5, 6, dtype=torch.int64)
    for rule in (None, "bp", "fa"):
        net = sequences()
        net.set_rule(rule)
        for target in (indices, indices[:, 0], torch.rand(5, 6, 3), torch.rand(5, 18)):
            net(x, target)
        for wrong in (indices[:, :5], torch.rand(5, 6), mask(5, 6)):
            with pytest.raises(ValueError, match=r"target: expected .* rows of shape \(5, 18\)"):
                net(x, wrong)
    maps = nn.Sequential(nn.Conv2d(2, 3, 3), rule="bp")
    maps(torch.rand(5, 2, 8, 8), torch.zeros(5, 6, 6, dtype=torch.int64))


def test_a_failed_set_rule_changes_nothing() -> None:
    net = convolutional("dfa")
    before = dict(net.named_buffers())
    for rule in ("ifa", "nonsense", ["bp"]):
        with pytest.raises(ValueError, match="rule: "):
            net.set_rule(rule)
    net.input_shape = (3, 8, 8)
    with pytest.raises(ValueError, match="input_shape: "):
        net.set_rule("pepita")
    assert dict(net.named_buffers()).keys() == before.keys()
    assert re.match(r"DFA\(", repr(net.rule))
    net.input_shape = (2, 8, 8)
    net(torch.rand(5, 2, 8, 8)).sum().backward()


def test_a_layer_pruned_after_the_rule_was_set() -> None:
    net = dense("dfa")
    prune.random_unstructured(net[0], "weight", 0.5)
    with pytest.raises(RuntimeError, match=r"Linear\(.*its weight is computed from others .*; call set_rule again"):
        net(X)
    net.set_rule("dfa")
    net(X).sum().backward()
    assert net.get_parameter("0.weight_orig").grad is not None


def test_a_step_needs_a_rule() -> None:
    with pytest.raises(RuntimeError, match=r"rule: expected one for a step \(set_rule\), got None"):
        dense(None).new_step(X)
