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
        kwargs, operation = kwargs or {}, func.overloadpacket
        if operation in COMPOSITE:
            with self:
                return torch._decomp.decomposition_table[func](*args, **kwargs)
        result = func(*args, **kwargs)
        if operation in SUMS:
            exact, squares, counts = (
                func(*tree_map(_of_tensors(change), args), **kwargs) for change in (_wide, _square, _one)
            )
            return tree_map(self._sum, result, exact, squares, counts)
        if torch.Tag.pointwise in func.tags and not func._schema.is_mutable:
            return tree_map(self._rounded, result, func(*tree_map(_of_tensors(_wide), args), **kwargs))
        return result

    def _rounded(self, result: Any, exact: Any) -> Any:
        """The result of an elementwise operation, with an error where it is not exact."""
        if not _is_rounded(result):
            return result
        unit = torch.finfo(result.dtype).eps / 2
        return self._with_error(result, exact, unit / math.sqrt(3) * exact.abs() * (result.double() != exact))

    def _sum(self, result: Any, exact: Any, squares: Any, counts: Any) -> Any:
        """A sum, with an error by the number of its terms and their sizes."""
        if not _is_rounded(result):
            return result
        unit, n = torch.finfo(result.dtype).eps / 2, counts.abs().clamp(min=1)
        partial_sums = (1 + (n + 1) / 2) * squares + (n + 1) * (2 * n + 1) / (6 * n) * exact**2
        return self._with_error(result, exact, unit * (partial_sums / 3).sqrt())

    def _with_error(self, result: Tensor, exact: Tensor, deviation: Tensor) -> Tensor:
        """The exact numbers with normal errors, always the same for a number and a draw."""
        bits = exact.contiguous().view(torch.int64)
        first, second = (_uniform(bits + 2 * self.draw + i) for i in range(2))
        error = deviation * (-2 * first.log()).sqrt() * (2 * math.pi * second).cos()
        return torch.where(exact.isfinite(), exact + error, exact).to(result.dtype)


def _uniform(bits: Tensor) -> Tensor:
    """Numbers in (0, 1) by a hash of whole numbers (splitmix64)."""
    bits = bits * -0x61C8864680B583EB
    bits = (bits ^ (bits >> 30)) * -0x40A7B892E31B1A47
    bits = (bits ^ (bits >> 27)) * -0x6B2FB644ECCEEE15
    return (((bits ^ (bits >> 31)) & ((1 << 52) - 1)).double() + 0.5) / (1 << 52)


def _of_tensors(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    """Return a function that changes a tensor of floating-point numbers, and leaves all else as it is."""
    return lambda value: change(value) if _is_rounded(value) else value


def _is_rounded(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _wide(value: Tensor) -> Tensor:
    return value.double()


def _square(value: Tensor) -> Tensor:
    return value.double() ** 2


def _one(value: Tensor) -> Tensor:
    return torch.ones_like(value, dtype=torch.float64)


def _clone(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
