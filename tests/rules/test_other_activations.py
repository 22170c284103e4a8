"""PEPITA's activity h_l is what follows the activation, also where the kernels do not know that activation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fastalign.nn as nn
from fastalign import rules


@pytest.mark.parametrize("activation", [torch.nn.ReLU6, torch.nn.Hardtanh, torch.nn.Mish])
@pytest.mark.parametrize("update", ["difference", "hebbian"])
def test_the_activity_is_taken_after_any_activation(activation: type[torch.nn.Module], update: str) -> None:
    torch.manual_seed(0)
    f = activation()
    network = nn.Sequential(
        nn.Linear(20, 30), f, nn.Linear(30, 12), f, nn.Linear(12, 5), rule=rules.PEPITA(update=update)
    ).double()
    x, y = torch.randn(8, 20).double(), torch.randint(5, (8,))
    F.cross_entropy(network(x), y).backward()

    w1, b1, w2, b2, w3, b3 = network.parameters()

    def activities(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            h1 = f(F.linear(x, w1, b1))
            h2 = f(F.linear(h1, w2, b2))
            return h1, h2, F.linear(h2, w3, b3)

    h1, h2, a = activities(x)
    assert network.projection is not None
    x_mod = x + (torch.softmax(a, 1) - F.one_hot(y, 5)) @ network.projection.T
    h1_mod, h2_mod, _ = activities(x_mod)
    if update == "difference":
        expected = (h1 - h1_mod).T @ x_mod, (h2 - h2_mod).T @ h1_mod
    else:
        expected = h1.T @ x - h1_mod.T @ x_mod, h2.T @ h1 - h2_mod.T @ h1_mod
    torch.testing.assert_close(w1.grad, expected[0] / 8)
    torch.testing.assert_close(w2.grad, expected[1] / 8)
