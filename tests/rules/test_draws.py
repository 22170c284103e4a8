"""How weights and fixed matrices are drawn: each paper's way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastalign.nn as nn
from fastalign import initialise, rules
from fastalign.rules import feedback


def assert_uniform(tensor: Tensor, bound: float) -> None:
    """U(±bound): all within, near both ends, of the variance bound² / 3."""
    assert tensor.abs().max() <= bound
    assert tensor.max() > 0.97 * bound
    assert tensor.min() < -0.97 * bound
    assert abs(tensor.var().item() / (bound**2 / 3) - 1) < 0.1


def generators_numbers(bound: float, *shape: int) -> Tensor:
    """What torch's generator gives for U(±bound) after the seed 0: a bound that is a percent off differs from it."""
    torch.manual_seed(0)
    return bound * (2 * torch.rand(shape) - 1)


def network(rule: rules.Rule) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(50, 40, activation="tanh"), nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 30), rule=rule
    )


@pytest.mark.parametrize(
    ("rule", "bounds"),
    [
        (rules.DFA(), (1 / math.sqrt(40), 1 / math.sqrt(60))),
        (rules.DFA(feedback="he-uniform"), (math.sqrt(6 / 40), math.sqrt(6 / 60))),
        (rules.DFA(shared_feedback=True), (1 / math.sqrt(60), 1 / math.sqrt(60))),
        (rules.DRTP(), (math.sqrt(6 / 40), math.sqrt(6 / 60))),
        (rules.DRTP(feedback="uniform-fan-out"), (1 / math.sqrt(40), 1 / math.sqrt(60))),
        (rules.IFA(), (1 / math.sqrt(40), None)),
        (rules.FA(feedback="he-uniform"), (math.sqrt(6 / 40), math.sqrt(6 / 60))),
        (rules.FA(feedback="uniform-fan-in"), (1 / math.sqrt(40), 1 / math.sqrt(60))),
    ],
    ids=repr,
)
def test_feedback(rule: rules.Rule, bounds: tuple[float | None, ...]) -> None:
    """Nøkland: U(±1/√n_l), n_l the units that receive the signal; Frenkel: U(±√(6/n_l)). FA: of the fan-in."""
    for matrix, bound in zip(network(rule).feedback, bounds, strict=True):
        assert (matrix is None) == (bound is None)
        if matrix is not None and bound is not None:
            assert_uniform(matrix, bound)


@pytest.mark.parametrize(
    ("rule", "bound"),
    [
        (rules.PEPITA(), 0.05 * math.sqrt(6 / 50)),
        (rules.PEPITA(projection_scale=1.0, projection="uniform-fan-out"), 1 / math.sqrt(50)),
    ],
    ids=["paper", "other"],
)
def test_projection(rule: rules.Rule, bound: float) -> None:
    projection = network(rule).projection
    assert projection is not None
    assert_uniform(projection, bound)


def test_a_drawn_matrix_is_like_its_network() -> None:
    like = torch.empty(3, dtype=torch.float64)
    matrix = feedback.draw("he-uniform", 100, 200, like, scale=2.0)
    assert (matrix.shape, matrix.dtype, matrix.requires_grad) == ((100, 200), torch.float64, False)
    assert_uniform(matrix, 2 * math.sqrt(6 / 100))
    assert feedback.draw("he-uniform", 100, 200, torch.empty(3, device="meta")).device.type == "meta"


@pytest.mark.parametrize("name", ["zero", "uniform-fan-in", "he-uniform"])
def test_initial_weights(name: str) -> None:
    """Fixed matrices stay; convolutions count their whole patch as fan-in."""
    modules: list[torch.nn.Module] = [nn.Conv2d(4, 100, 5), nn.ReLU(), nn.Flatten(), nn.Linear(400, 300)]
    net = nn.Sequential(*modules, nn.Linear(300, 10), rule="dfa", input_shape=(4, 6, 6))
    matrices = [matrix.clone() for matrix in net.feedback if matrix is not None]
    assert initialise(net, name) is net
    torch.testing.assert_close([m for m in net.feedback if m is not None], matrices, rtol=0, atol=0)
    for layer, fan_in in ((net[0], 100), (net[3], 400)):
        weight, bias = (p.detach() for p in layer.parameters())
        if name == "zero":
            assert not weight.any()
            assert not bias.any()
        elif name == "uniform-fan-in":
            assert_uniform(weight, 1 / math.sqrt(fan_in))
            assert 0 < bias.abs().max() <= 1 / math.sqrt(fan_in)
        else:
            assert_uniform(weight, math.sqrt(6 / fan_in))
            assert not bias.any()


@pytest.mark.parametrize(
    ("distribution", "bound"), [("uniform-fan-out", 1 / math.sqrt(40)), ("he-uniform", math.sqrt(6 / 40))]
)
def test_bound_of_a_fixed_matrix(distribution: str, bound: float) -> None:
    expected = generators_numbers(0.5 * bound, 40, 10)
    torch.manual_seed(0)
    torch.testing.assert_close(feedback.draw(distribution, 40, 10, torch.empty(0), scale=0.5), expected)


@pytest.mark.parametrize(("name", "bound"), [("uniform-fan-in", 1 / math.sqrt(40)), ("he-uniform", math.sqrt(6 / 40))])
def test_bound_of_an_initial_weight(name: str, bound: float) -> None:
    layer = nn.Linear(40, 10)
    expected = generators_numbers(bound, 10, 40)
    torch.manual_seed(0)
    initialise(layer, name)
    torch.testing.assert_close(layer.weight.detach(), expected)
