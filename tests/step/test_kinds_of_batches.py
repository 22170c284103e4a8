"""A training step remembers so many kinds of batches, and those that came last."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from networks import CLASSES, MOMENTUM, Batch, assert_same, loop, network, twins
from torch import Tensor

import fastalign.nn as nn
from fastalign import TrainStep
from fastalign.step import train_step


class OfItsOwn(torch.nn.Module):
    """Code that a recording would not see."""

    def forward(self, h: Tensor) -> Tensor:
        return 2 * h


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches whose steps are recorded, as they are."""
    sizes = []
    record = train_step.record

    def note(calculate: object, inputs: tuple[Tensor, Tensor], lasting: object) -> object:
        sizes.append(len(inputs[0]))
        return record(calculate, inputs, lasting)  # type: ignore[arg-type]

    monkeypatch.setattr(train_step, "record", note)
    return sizes


def twice_each(sizes: Iterable[int]) -> list[Batch]:
    """Two batches of each size, one after the other: the second one is recorded."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.rand(n, 8, dtype=torch.float64, generator=generator), torch.randint(CLASSES, (n,), generator=generator))
        for n in sizes
        for _ in range(2)
    ]


def test_of_nine_sizes_the_last_eight_are_replayed(recorded: list[int]) -> None:
    plain, (net, optimizer) = twins(network("dense"), MOMENTUM)
    step = TrainStep(net, loss="cross_entropy", optimizer=optimizer)
    sizes = [*range(1, 10), *range(2, 10), *range(2, 10), 1]
    for i, batch in enumerate(twice_each(sizes)):
        torch.manual_seed(i)
        step.step(*batch)
    assert recorded == [*range(1, 10), 1]
    loop(*plain, twice_each(sizes))
    assert_same((net, optimizer), plain)


def test_the_size_that_has_not_come_for_longest_goes(recorded: list[int]) -> None:
    net = network("dense")
    step = TrainStep(net, loss="cross_entropy", optimizer=MOMENTUM(list(net.parameters())))
    for batch in twice_each([*range(1, 9), 1, 9, 1, 2]):
        step.step(*batch)
    assert recorded == [*range(1, 10), 2]


def test_so_many_are_remembered_that_cannot_be_recorded(recorded: list[int]) -> None:
    net = nn.Sequential(nn.Linear(8, 6), OfItsOwn(), nn.Linear(6, CLASSES), rule="dfa").double()
    step = TrainStep(net, loss="cross_entropy", optimizer=MOMENTUM(list(net.parameters())))
    for batch in twice_each(range(1, 30)):
        step.step(*batch)
    assert not recorded
    assert len(step._replays) == 8
