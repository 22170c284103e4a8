"""The rounding errors that arithmetic in a dtype makes, as a model: the same on every machine.

Plain PyTorch is luckier on some machines than on others: how it orders a sum depends on the processor, and so does its
error. The model takes the luck out. `Rounding` runs a function of torch in its own dtypes, but computes every operation
in float64 and adds an error that is drawn from the distribution below. With u = eps / 2 the unit roundoff of the dtype:

- An elementwise operation whose result needs rounding is off by a part of it that is uniform in [−u, u], which has the
  variance u² / 3.
- A sum s of n terms t_k, one product each, rounds every product and every partial sum s_k. Each rounding has the
  variance u² s_k² / 3 and is independent of the others (Higham & Mary 2019, "A new approach to probabilistic rounding
  error analysis"). For terms in random order E[s_k²] ≤ k ‖t‖² / n + k² s² / n², and Σ k = n (n + 1) / 2,
  Σ k² = n (n + 1) (2n + 1) / 6, so that the variance of s is at most

      u² / 3 · ((1 + (n + 1) / 2) ‖t‖² + (n + 1) (2n + 1) / (6n) · s²),

  which grows as u √(n / 6) · √(‖t‖² + ⅔ s²): with the length, the unit roundoff and the magnitudes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DRAWS = 32  # of the error of one result: the largest of so many normal numbers is about twice their deviation

aten = torch.ops.aten
# Linear in each operand: the same operation of squares sums the squares of the terms, and of ones it counts them.
SUMS = {aten.mm, aten.addmm, aten.bmm, aten.sum, aten.scatter_add, aten.convolution_backward}
# What follows from elementwise operations and sums.
COMPOSITE = {aten._log_softmax, aten.nll_loss_forward}


def modelled(function: Callable[[Any], Sequence[Tensor]], arguments: Any) -> list[Sequence[Tensor]]:
    """What a function gives under the model, once for each draw."""
    results = []
    for draw in range(DRAWS):
        with Rounding(draw):
            results.append(function(tree_map(_clone, arguments)))
    return results


class Rounding(TorchDispatchMode):
    """Carries out operations with errors of the model. Equal results have equal errors, as equal computations do."""

    def __init__(self, draw: int) -> None:
        super().__init__()
        self.draw = draw

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operation = func.overloadpacket
        if operation in COMPOSITE:
            with self:
                return torch._decomp.decomposition_table[func](*args, **kwargs)
        result = func(*args, **kwargs)
        if operation not in SUMS and torch.Tag.pointwise not in func.tags:
            return result
        if isinstance(result, tuple):
            exact = func(*tree_map(_wide, args), **kwargs)
            return tuple(
                self._with_error(r, e, lambda change, i=i: func(*tree_map(change, args), **kwargs)[i], operation)
                for i, (r, e) in enumerate(zip(result, exact, strict=True))
            )
        if func._schema.is_mutable or not _is_rounded(result):
            return result
        exact = func(*tree_map(_wide, args), **kwargs)
        return self._with_error(result, exact, lambda change: func(*tree_map(change, args), **kwargs), operation)

    def _with_error(
        self, result: Any, exact: Any, of_changed: Callable[[Callable[[Any], Any]], Tensor], operation: Any
    ) -> Any:
        if not _is_rounded(result):
            return result
        unit = torch.finfo(result.dtype).eps / 2
        if operation in SUMS:
            count = of_changed(lambda value: torch.ones_like(_wide(value)) if _is_rounded(value) else value)
            squares = of_changed(lambda value: _wide(value) ** 2 if _is_rounded(value) else value)
            count = count.abs().clamp(min=1)
            variance = (1 + (count + 1) / 2) * squares + (count + 1) * (2 * count + 1) / (6 * count) * exact**2
            error = unit * (variance / 3).sqrt() * self._normal(exact)
        else:
            error = unit * exact.abs() / math.sqrt(3) * self._normal(exact) * (result.double() != exact)
        return torch.where(exact.isfinite(), exact + error, exact).to(result.dtype)

    def _normal(self, values: Tensor) -> Tensor:
        """A normal number for each value and draw, always the same one."""
        bits = values.contiguous().view(torch.int64)
        first, second = (_uniform(bits + 2 * self.draw + i) for i in range(2))
        return (-2 * first.log()).sqrt() * (2 * math.pi * second).cos()


def _uniform(bits: Tensor) -> Tensor:
    """Numbers in (0, 1) by a hash of whole numbers (splitmix64)."""
    bits = bits * -0x61C8864680B583EB
    bits = (bits ^ (bits >> 30)) * -0x40A7B892E31B1A47
    bits = (bits ^ (bits >> 27)) * -0x6B2FB644ECCEEE15
    return (((bits ^ (bits >> 31)) & ((1 << 52) - 1)).double() + 0.5) / (1 << 52)


def _is_rounded(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _wide(value: Any) -> Any:
    return value.double() if _is_rounded(value) else value


def _clone(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
