"""The strictest comparison: a number of few digits is the nearest to the truth that there is."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_rounded_once(actual: Tensor, truth: Tensor) -> None:
    """Raise AssertionError where an element is wrong by more than half a unit in its last place; truth is float64."""
    limits = torch.finfo(actual.dtype)
    _, exponent = truth.abs().clamp(min=limits.smallest_normal).frexp()
    units = (actual - truth).abs() / torch.ldexp(limits.eps / 2 * torch.ones_like(truth), exponent)
    largest = units.max().item()
    assert largest <= 0.51, f"units in the last place {largest:.3g}, expected at most 0.51"
