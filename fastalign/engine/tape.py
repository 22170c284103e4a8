"""Where a standard pass keeps its tensors until the rule asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

import torch
from torch import Tensor


class Keep(IntEnum):
    """What a pass keeps of a layer."""

    NOTHING = 0
    FOR_GRADIENT = 1
    """Its input, and of its activation what f′ follows from: the output where it can."""
    FOR_DIFFERENCE = 2
    """Its input and its preactivation, from which differences of activity follow."""
    FOR_BOTH = 3
    """As for a gradient, but of its activation the preactivation."""


class Tape:
    """Tensors by slot. Between forward and backward they are autograd's saved tensors, and the tape is empty.

    seeds: of dropout, in order, where a pass is run again; else they are drawn.
    """

    def __init__(self, seeds: Iterator[Tensor] | None = None) -> None:
        self._tensors: list[Tensor] | tuple[Tensor, ...] = []
        self._given_seeds = seeds
        self.seeds: list[Tensor] = []
        """Those that were drawn."""

    def next_seed(self, device: torch.device) -> Tensor:
        """The seed of a dropout, from torch's generator of the device."""
        if self._given_seeds is not None:
            return next(self._given_seeds)
        self.seeds.append(torch.randint(2**63 - 1, (1,), device=device))
        return self.seeds[-1]

    def keep(self, tensor: Tensor) -> int:
        """Keep a tensor; returns its slot. A tensor that was just kept keeps its slot."""
        assert isinstance(self._tensors, list)
        if self._tensors and self._tensors[-1] is tensor:
            return len(self._tensors) - 1
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def __getitem__(self, slot: int) -> Tensor:
        return self._tensors[slot]

    def put(self, slot: int, tensor: Tensor) -> None:
        """Another tensor in a slot."""
        self._tensors = list(self._tensors)
        self._tensors[slot] = tensor

    def release(self) -> list[Tensor]:
        """All tensors, to be saved elsewhere."""
        tensors, self._tensors = list(self._tensors), []
        return tensors

    def restore(self, tensors: tuple[Tensor, ...]) -> None:
        """Take back what `release` gave."""
        self._tensors = tensors
