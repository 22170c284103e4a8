"""What the papers say of their rules: checks that catch the usual mistakes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign.nn as nn
from fastalign import initialise, rules
from fastalign.ops import reference

RULES = ["bp", "fa", "dfa", "ifa", "drtp", "pepita"]


def gradients(net: nn.Sequential, x: Tensor, target: Tensor) -> list[Tensor]:
    net.zero_grad()
    F.cross_entropy(net(x, target), target).backward()
    return [p.grad for p in net.parameters() if p.grad is not None]


def batch(size: int, inputs: int = 8, classes: int = 4) -> tuple[Tensor, Tensor]:
    torch.manual_seed(size)
    return torch.rand(size, inputs, dtype=torch.float64), torch.randint(classes, (size,))


def test_fa_is_dfa_with_one_hidden_layer() -> None:
    """δ_2 is e there, so that FA with B_2 = B_1ᵀ is DFA with B_1."""
    net = nn.Sequential(nn.Linear(8, 6, activation="tanh"), nn.Linear(6, 4), rule="dfa").double()
    x, target = batch(5)
    (matrix,) = net.feedback
    dfa = gradients(net, x, target)
    net.set_rule("fa")
    assert matrix is not None
    assert net.feedback[0] is not None
    assert not torch.allclose(gradients(net, x, target)[0], dfa[0])
    net.feedback[0].copy_(matrix.T)
    torch.testing.assert_close(gradients(net, x, target), dfa)


def test_dfa_starts_from_zero() -> None:
    """After one step from all-zero weights W_1 has moved, no later W has (its input was f(0) = 0), every bias has."""
    net = nn.Sequential(
        nn.Linear(8, 6, activation="tanh"),
        nn.Linear(6, 5, activation="tanh"),
        nn.Linear(5, 4),
        rule="dfa",
    ).double()
    initialise(net, "zero")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, target = batch(6)
    for step in range(2):
        gradients(net, x, target)
        optimizer.step()
        weights, biases = list(net.parameters())[::2], list(net.parameters())[1::2]
        assert all(bias.all() for bias in biases)
        assert [bool(weight.any()) for weight in weights] == [True, step > 0, step > 0]


@pytest.mark.parametrize("size", [3, 6])
def test_pepita_on_a_linear_net_pushes_f_e_through_the_weights(size: int) -> None:
    """h_1 − h_1^mod = −W_1 F e and h_2 − h_2^mod = −W_2 W_1 F e, whatever W."""
    net = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, 4), rule="pepita").double()
    x, target = batch(size)
    w1, _, w2, *_ = (p.detach() for p in net.parameters())
    projection = net.projection
    assert projection is not None
    with torch.no_grad():
        error = torch.softmax(net(x), 1) - F.one_hot(target, 4)
        h1, modulation = net[0](x), error @ projection.T
        h2 = net[1](h1)
    d1 = modulation @ w1.T
    d2 = d1 @ w2.T
    found = gradients(net, x, target)
    torch.testing.assert_close(found[0], -d1.T @ (x + modulation) / size, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[2], -d2.T @ (h1 + d1) / size, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[4], error.T @ (h2 + d2) / size)


@pytest.mark.parametrize("size", [3, 6])
def test_without_projection_only_the_output_layer_moves(size: int) -> None:
    net = nn.Sequential(nn.Linear(8, 6, activation="relu"), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), rule="pepita")
    net.double()
    assert net.projection is not None
    net.projection.zero_()
    *hidden, weight, bias = gradients(net, *batch(size))
    assert len(hidden) == 4
    assert not any(gradient.any() for gradient in hidden)
    assert weight.all()
    assert bias.all()


@pytest.mark.parametrize("size", [1, 6])
def test_dropped_units_do_not_move(size: int) -> None:
    """Both passes drop the same units: Δh = 0 there exactly, and so are their rows of ΔW."""
    net = nn.Sequential(nn.Linear(8, 40, activation="tanh"), nn.Dropout(0.7), nn.Linear(40, 4), rule="pepita").double()
    x, target = batch(size)
    torch.manual_seed(0)
    weight, bias, *_ = gradients(net, x, target)
    torch.manual_seed(0)
    mask = reference.dropout_factor(torch.empty(size, 40), 0.7, torch.randint(2**63 - 1, (1,)))
    dropped = (mask == 0).all(0)
    assert 0 < dropped.sum() < 40
    assert torch.equal((weight == 0).all(1), dropped)
    assert torch.equal(bias == 0, dropped)


@pytest.mark.parametrize("rule", RULES)
def test_a_smaller_last_batch(rule: str) -> None:
    """Each batch is averaged over its own samples: one sample twice gives what it gives once."""
    net = nn.Sequential(nn.Linear(8, 6, activation="tanh"), nn.Linear(6, 5, activation="relu"), nn.Linear(5, 4))
    net.set_rule(rule)
    net.double()
    x, target = batch(8)
    gradients(net, x, target)
    once = gradients(net, x[:1], target[:1])
    assert all(gradient.any() for gradient in once)
    torch.testing.assert_close(gradients(net, x[:1].expand(7, -1), target[:1].expand(7)), once)


@pytest.mark.parametrize("rule", RULES)
def test_an_empty_batch_moves_nothing(rule: str) -> None:
    dense: list[torch.nn.Module] = [
        nn.Linear(8, 6, activation="tanh"),
        nn.Dropout(0.1),
        nn.Linear(6, 5),
        nn.Linear(5, 4),
    ]
    conv: list[torch.nn.Module] = [nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 3, 1), nn.ReLU(), nn.MaxPool2d(2)]
    conv = [*conv, nn.Flatten(), nn.Linear(3, 4)]
    for layers in (dense, conv) if rule != "ifa" else (dense,):
        net = nn.Sequential(*layers, rule=rule, input_shape=(8,)).double()
        x, target = batch(0)
        net(x, target).sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in net.parameters())


def alignment_angle(net: nn.Sequential) -> float:
    """Between the forward path W_1ᵀ…W_Lᵀ and F (D&K 2022, §4), in degrees."""
    path = torch.linalg.multi_dot([layer.weight.detach().T for layer in net if isinstance(layer, torch.nn.Linear)])
    assert net.projection is not None
    return math.degrees(math.acos(F.cosine_similarity(path.flatten(), net.projection.flatten(), 0).item()))


def test_the_sign_of_the_modulation_is_that_of_the_alignment() -> None:
    """x + F e turns the forward path against F (over 90°), x − F e towards it."""
    torch.manual_seed(0)
    centres = torch.rand(20, 100)
    angles = {}
    for sign in (1.0, -1.0):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(100, 100, activation="relu"), nn.Linear(100, 20), rule=rules.PEPITA(sign=sign))
        initialise(net, "he-uniform")
        assert abs(alignment_angle(net) - 90) < 3
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for _ in range(300):
            target = torch.randint(20, (64,))
            x = centres[target] + 0.8 * torch.randn(64, 100)
            F.cross_entropy(net(x), target).backward()
            optimizer.step()
            optimizer.zero_grad()
        angles[sign] = alignment_angle(net)
    assert angles[1.0] > 95
    assert angles[-1.0] < 85
