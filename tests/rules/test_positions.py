"""Layers on sequences (N, T, features): weights see every position, the error and fixed matrices every sample."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastalign.nn as nn
from fastalign import rules

N, T, FEATURES, HIDDEN, OUTPUTS = 5, 3, 4, 6, 2
Updates = list[Tensor]
Plain = Callable[[nn.Sequential, Tensor, Tensor], Updates]


def network(rule: rules.Rule) -> nn.Sequential:
    torch.manual_seed(0)
    modules = [nn.Linear(FEATURES, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUTPUTS)]
    return nn.Sequential(*modules, nn.Tanh(), rule=rule, input_shape=(T, FEATURES)).double()


def activities(net: nn.Sequential, x: Tensor) -> list[Tensor]:
    """h_0, h_1, h_2 and the output."""
    h = [x]
    weights = list(net.parameters())
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        h.append(torch.tanh(h[-1] @ weight.T + bias))
    return h


def updates(posts: Updates, pres: Updates) -> Updates:
    """The sums over samples and positions."""
    parts = [(torch.einsum("nth,ntk->hk", p, q), p.sum((0, 1))) for p, q in zip(posts, pres, strict=True)]
    return [update for part in parts for update in part]


def output_error(output: Tensor, target: Tensor) -> Tensor:
    """∂loss/∂a_L of half the squared error."""
    return (output - target) * (1 - output**2)


def direct(net: nn.Sequential, x: Tensor, target: Tensor) -> Updates:
    *h, output = activities(net, x)
    error = output_error(output, target)
    signals = [torch.einsum("ic,nc->ni", m, error.flatten(1)).reshape(N, T, -1) for m in net.feedback if m is not None]
    return updates([signals[0] * (1 - h[1] ** 2), signals[1] * (1 - h[2] ** 2), error], h)


def indirect(net: nn.Sequential, x: Tensor, target: Tensor) -> Updates:
    *h, output = activities(net, x)
    error = output_error(output, target)
    assert net.feedback[0] is not None
    first = (error.flatten(1) @ net.feedback[0].T).reshape(N, T, -1) * (1 - h[1] ** 2)
    return updates([first, first @ net.get_parameter("2.weight").T * (1 - h[2] ** 2), error], h)


def pepita(net: nn.Sequential, x: Tensor, target: Tensor) -> Updates:
    assert net.projection is not None
    *h, output = activities(net, x)
    error = N * output_error(output, target)
    *h_mod, _ = activities(net, x + (error.flatten(1) @ net.projection.T).reshape(x.shape))
    return [u / N for u in updates([h[1] - h_mod[1], h[2] - h_mod[2], error], h_mod)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [(rules.DFA(), direct), (rules.IFA(), indirect), (rules.PEPITA(projection_scale=1.0), pepita)],
    ids=["dfa", "ifa", "pepita"],
)
@torch.no_grad()
def test_sequences(rule: rules.Rule, expected: Plain) -> None:
    net = network(rule)
    x, target = torch.rand(N, T, FEATURES).double(), torch.rand(N, T, OUTPUTS).double()
    plain = expected(net, x, target)
    with torch.enable_grad():
        (0.5 * (net(x) - target).square().sum()).backward()
    for parameter, update in zip(net.parameters(), plain, strict=True):
        torch.testing.assert_close(parameter.grad, update, rtol=1e-9, atol=1e-12)
