"""Networks under torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign.nn as nn


class Classifier(torch.nn.Module):
    """A network with plain modules around it, which the compiler does compile."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = torch.nn.Parameter(torch.ones(4))
        self.net = nn.Sequential(
            nn.Linear(8, 7, activation="tanh"), nn.Linear(7, 6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 4), rule=rule
        )

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        return torch.log_softmax(self.net(x * 2 - 1, target) * self.scale, 1)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def train(eager: torch.nn.Module, x: Tensor, target: Tensor, backend: str | None = None) -> list[Tensor]:
    """Losses, the last outputs and the parameters of a copy in training, compiled if there is a backend."""
    copied = copy.deepcopy(eager)
    model = copied if backend is None else torch.compile(copied, backend=backend)
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(copied.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.nll_loss(model(x, target), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    with torch.no_grad():
        copied.eval()
        outputs = model(x)
    return [*losses, outputs, *(p.detach() for p in copied.parameters())]


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "ifa", "drtp", "pepita"])
@pytest.mark.parametrize("whole", [False, True], ids=["network", "module with a network"])
def test_compiled_is_eager(rule: str, whole: bool) -> None:
    torch.manual_seed(2)
    x, target = torch.rand(6, 8), torch.randint(4, (6,))
    model = Classifier(rule)
    eager: torch.nn.Module = model if whole else model.net
    torch.testing.assert_close(train(eager, x, target, "aot_eager"), train(eager, x, target))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_compiled_by_inductor() -> None:
    """Which draws dropout its own way: a network is not compiled within and draws as it does in eager mode."""
    torch.manual_seed(2)
    x, target = torch.rand(6, 8), torch.randint(4, (6,))
    model = Classifier("dfa")
    torch.testing.assert_close(train(model, x, target, "inductor"), train(model, x, target))


@pytest.mark.parametrize("rule", ["bp", "dfa", "pepita"])
def test_a_compiled_training_step(rule: str) -> None:
    """With the backward pass inside."""
    torch.manual_seed(2)
    x, target = torch.rand(6, 8), torch.randint(4, (6,))
    found = []
    for compiled in (False, True):
        model = Classifier(rule)

        def step(x: Tensor, target: Tensor, model: Classifier = model) -> Tensor:
            loss = F.nll_loss(model(x, target), target)
            loss.backward()
            return loss.detach()

        torch.manual_seed(1)
        loss = (torch.compile(step, backend="aot_eager") if compiled else step)(x, target)
        found.append([loss, *(p.grad for p in model.parameters())])
    assert all(gradient is not None and gradient.any() for gradient in found[1])
    torch.testing.assert_close(found[1], found[0])
