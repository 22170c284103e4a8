"""The optimizers that every kernel knows: how a parameter W and its state follow a gradient G."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor


class Descent(IntEnum):
    """An optimizer of `torch.optim`, as it moves W by G; the value is its number in `csrc/common/descent.h`.

    SGD: W ← W − η(G + λW). MOMENTUM: V ← μV + G + λW, W ← W − ηV. NESTEROV: the same V, W ← W − η(G + λW + μV).
    RMSPROP: R ← αR + (1 − α)(G + λW)², W ← W − η(G + λW) / (√R + ε). ADAM: M ← β₁M + (1 − β₁)(G + λW),
    R ← β₂R + (1 − β₂)(G + λW)², W ← W − η / c₁ · M / (√(R / c₂) + ε). ADAMW: the same with W ← W − ηλW before, in place
    of G + λW.
    """

    SGD = 0
    MOMENTUM = 1
    NESTEROV = 2
    RMSPROP = 3
    ADAM = 4
    ADAMW = 5

    @property
    def states(self) -> int:
        """How many tensors of state a parameter has: V, or R, or M and R."""
        return (0, 1, 1, 1, 2, 2)[self]


class Settings(NamedTuple):
    """The numbers of a step. Kernels read them from a tensor, so that a recorded step follows their changes."""

    learning_rate: float
    """η."""
    weight_decay: float = 0.0
    """λ."""
    momentum: float = 0.0
    """μ of SGD, β₁ of Adam."""
    square_decay: float = 0.0
    """α of RMSprop, β₂ of Adam."""
    epsilon: float = 0.0
    """ε."""
    momentum_correction: float = 1.0
    """c₁ = 1 − β₁ᵗ of Adam's step t."""
    square_correction: float = 1.0
    """c₂ = 1 − β₂ᵗ of Adam's step t."""

    def as_tensor(self, device: torch.device | str = "cpu") -> Tensor:
        """The numbers in this order, (7,) in float64."""
        return torch.tensor(self, dtype=torch.float64, device=device)
