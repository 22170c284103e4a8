"""A row of `fastalign bench ops`, and what its makers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastalign.bench.measure import Run, copy_of
from fastalign.ops.activations import Activation

TANH = int(Activation.TANH)


@dataclass
class Case:
    """One row. `plain` takes the arguments and is compiled as it stands; `best` and `floor` are run as they are.

    The floor is the time of `floor`, or of as many operations as `arithmetic` at the library's rate if that is more.
    """

    op: str
    shape: str
    run: Run
    plain: Callable[..., object]
    arguments: tuple[Any, ...]
    floor: Run
    best: Run | None = None
    best_name: str = ""
    bytes: int = 0
    operations: int = 0
    arithmetic: int = 0
    beside: Mapping[str, Run] = field(default_factory=dict)
    """What is no rival, by name: it computes less, or nobody would write it who cares for speed."""
    parts: Mapping[str, Run] = field(default_factory=dict)
    """What the op consists of, by name, each by the fastest call there is: what it costs to do them one by one."""


class Draw:
    """Normal random numbers on a device, in a dtype."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device).to(self.dtype)

    def copy_of(self, elements: int) -> Run:
        """A copy that moves so many elements, half of them read and half written."""
        return copy_of(elements * self.dtype.itemsize, self.device)

    def bytes(self, elements: int) -> int:
        return elements * self.dtype.itemsize


def plain_term(e: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """δ from a, as one writes it."""
    return (e @ b.T) * (1 - torch.tanh(a) ** 2)


def plain_term_from_output(e: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """δ from h, as one writes it."""
    return (e @ b.T) * (1 - h * h)


def product_text(shape: tuple[int, ...]) -> str:
    """A product as a row names it."""
    return " × ".join(map(str, shape))


def operands(shape: tuple[int, ...]) -> int:
    """The elements of a product's operands and result."""
    a, b, c = shape
    return a * b + a * c + b * c
