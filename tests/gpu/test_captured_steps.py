"""Training steps on a device: recorded, captured in a graph, with the numbers of the plain loop."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, RMSprop

from fastalign import TrainStep, nn
from fastalign.step import graphs

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: RMSprop(p, lr=0.001),
    "adam, fused": lambda p: Adam(p, lr=0.001, fused=True),
    "adam, capturable": lambda p: Adam(p, lr=0.001, capturable=True),
    "adamw": lambda p: AdamW(p, lr=0.001),
}


def network(rule: str, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(40, 64, activation="tanh"), nn.Dropout(dropout), nn.Linear(64, 48), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(48, 10), rule=rule).double().cuda()


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    sizes = [32] * (count - 1) + [20]
    return [
        (
            torch.randn(n, 40, dtype=torch.float64, generator=generator).cuda(),
            torch.randint(10, (n,), generator=generator).cuda(),
        )
        for n in sizes
    ]


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "ifa", "drtp", "pepita"])
def test_captured_steps_are_the_loop(rule: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, with a rate that changes at every step and a smaller batch at the end."""
    replays: list[None] = []

    class Counting(graphs.CudaGraphs):
        def capture(self, run: graphs.Run) -> tuple[Callable[[], None], list[Tensor]]:
            replay, results = super().capture(run)
            return lambda: replays.append(replay()), results

    monkeypatch.setattr(graphs, "CudaGraphs", Counting)
    plain = network(rule)
    fused = copy.deepcopy(plain)
    optimizer, its_optimizer = make(plain.parameters()), make(fused.parameters())
    step = TrainStep(fused, loss="cross_entropy", optimizer=its_optimizer)
    for x, y in batches(9):
        for each in (optimizer, its_optimizer):
            each.param_groups[0]["lr"] *= 0.9
        loss = F.cross_entropy(plain(x, y), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = step.step(x, y)
        torch.testing.assert_close(found, loss.detach(), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(fused.state_dict(), plain.state_dict(), rtol=1e-7, atol=1e-9)
    assert len(replays) == 5


def test_every_replay_draws_other_masks() -> None:
    net = network("dfa", dropout=0.5)
    step = TrainStep(net, loss="cross_entropy", optimizer=SGD(net.parameters(), lr=0.0))
    ((x, y),) = batches(1)
    assert len({step.step(x, y).item() for _ in range(8)}) == 8


@pytest.mark.parametrize("rule", ["dfa", "drtp", "pepita"])
def test_recomputed_steps_have_the_same_bits(rule: str) -> None:
    results = []
    for memory in ("store", "recompute"):
        net = network(rule, dropout=0.3)
        step = TrainStep(net, loss="cross_entropy", optimizer=SGD(net.parameters(), lr=0.1), memory=memory)
        for i, (x, y) in enumerate(batches(4)):
            torch.manual_seed(i)
            step.step(x, y)
        results.append(net.state_dict())
    torch.testing.assert_close(*results, rtol=0, atol=0)
