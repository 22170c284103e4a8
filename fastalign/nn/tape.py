"""Where a standard pass keeps its tensors until the rule asks for them."""

from __future__ import annotations

from enum import IntEnum

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
    """Tensors by slot. Between forward and backward they are autograd's saved tensors, and the tape is empty."""

    def __init__(self) -> None:
        self._tensors: list[Tensor] | tuple[Tensor, ...] = []

    def keep(self, tensor: Tensor) -> int:
        """Keep a tensor; returns its slot. A tensor that was just kept keeps its slot."""
        assert isinstance(self._tensors, list)
        if self._tensors and self._tensors[-1] is tensor:
            return len(self._tensors) - 1
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def __getitem__(self, slot: int) -> Tensor:
        return self._tensors[slot]

    def release(self) -> list[Tensor]:
        """All tensors, to be saved elsewhere."""
        tensors, self._tensors = list(self._tensors), []
        return tensors

    def restore(self, tensors: tuple[Tensor, ...]) -> None:
        """Take back what `release` gave."""
        self._tensors = tensors
