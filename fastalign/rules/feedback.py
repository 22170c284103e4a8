"""How the fixed random matrices B and F are drawn: each paper's way, by name.

A matrix has one row for each unit that receives the signal, n of them (for B the layer's units after pooling, for F the
input's).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_BOUNDS: dict[str, Callable[[int], float]] = {
    "uniform-fan-out": lambda n: 1 / math.sqrt(n),
    "he-uniform": lambda n: math.sqrt(6 / n),
}
DISTRIBUTIONS = tuple(_BOUNDS)


def draw(distribution: str, units: int, width: int, like: Tensor, scale: float = 1.0) -> Tensor:
    """A fixed matrix (units, width), of the dtype and on the device of `like`, from torch's global generator.

    "uniform-fan-out": U(±1/√n) (Nøkland 2016). "he-uniform": U(±√(6/n)) (Frenkel et al. 2019; with scale 0.05 the F of
    Dellaferrera & Kreiman 2022, §3). n = units.
    """
    bound = scale * _BOUNDS[distribution](max(units, 1))
    return torch.empty(units, width, dtype=like.dtype, device=like.device).uniform_(-bound, bound)
