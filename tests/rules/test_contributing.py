"""The rule that CONTRIBUTING.md adds as an example works as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

import fastalign.nn as nn
from fastalign.rules import Rule


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> Rule:
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    module = ModuleType("sign_symmetry")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(source, vars(module))
    return module.SignSymmetry()


def test_updates_are_those_of_its_equation(rule: Rule) -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(5, 6, activation="tanh"), nn.Linear(6, 3)
    x, target = torch.randn(8, 5), torch.arange(8) % 3
    net = nn.Sequential(first, last, rule=rule)
    F.cross_entropy(net(x), target).backward()
    error = (net(x).softmax(1) - F.one_hot(target, 3)) / 8
    matrix = last.weight.sign() * last.weight.abs().mean()
    delta = (error @ matrix) * (1 - first(x) ** 2)
    torch.testing.assert_close(first.weight.grad, delta.T @ x)


def test_it_learns_beside_convolutions(rule: Rule) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3), rule=rule
    )
    x, target = torch.randn(9, 1, 8, 8), torch.arange(9) % 3
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
