"""The comparison that every kernel has to pass: as accurate as arithmetic in the same dtype, within a factor of two.

No tolerance is tuned by hand. The truth is the reference in float64. The yardstick is the error of the reference in the
kernel's own dtype: as plain PyTorch makes it on this machine or, where a kernel exceeds that, as the model of
`rounding.py` draws it, which no machine's luck changes. A few outliers cannot hide a systematic error: besides the
largest error and the root of the mean square, the direction (cosine) and the signed bias are bounded too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FACTOR = 2.0  # how many times the yardstick's error a kernel may have
ROUNDING = 2.0  # units in the last place of the largest value on top, where plain PyTorch is exact by luck


class Expected(NamedTuple):
    """What a kernel's result is compared with."""

    truth: Tensor
    """In float64."""
    plain: Tensor
    """What plain PyTorch computes, in the dtype of the result."""
    modelled: Callable[[], Sequence[Tensor]] = tuple
    """Draws of what arithmetic in that dtype gives; asked for only where plain PyTorch's error was exceeded."""


def assert_as_accurate(actual: Tensor, expected: Expected) -> None:
    """Raises AssertionError where `actual` is less accurate than the larger of what plain PyTorch and the model are."""
    truth, plain = expected.truth, expected.plain
    assert actual.dtype == plain.dtype, f"dtype {actual.dtype}, expected {plain.dtype}"
    assert actual.shape == truth.shape, f"shape {tuple(actual.shape)}, expected {tuple(truth.shape)}"
    finite = _assert_same_specials(actual.double(), plain.double()) & truth.isfinite()
    if not finite.any():
        return
    exact = truth[finite]
    error, plain_error = (values.double()[finite] - exact for values in (actual, plain))
    if _excess(error, exact, [plain_error], plain.dtype) is None:
        return
    drawn = [values.double()[finite] - exact for values in expected.modelled()]
    excess = _excess(error, exact, [plain_error, *drawn], plain.dtype)
    if excess is not None:
        _fail(excess)


def assert_rounded_once(actual: Tensor, truth: Tensor) -> None:
    """Raise AssertionError where an element is wrong by more than half a unit in its last place; truth is float64."""
    limits = torch.finfo(actual.dtype)
    _, exponent = truth.abs().clamp(min=limits.smallest_normal).frexp()
    units = (actual - truth).abs() / torch.ldexp(limits.eps / 2 * torch.ones_like(truth), exponent)
    largest = units.max().item()
    assert largest <= 0.51, f"units in the last place {largest:.3g}, expected at most 0.51"


class Excess(NamedTuple):
    """An error that is too large."""

    times: float
    """How many times the bound."""
    message: str


def _excess(error: Tensor, exact: Tensor, yardsticks: Sequence[Tensor], dtype: torch.dtype) -> Excess | None:
    """The measure by which an error most exceeds what the yardsticks allow, errors too; None where none does."""
    allowed = [_measures(yardstick, exact) for yardstick in yardsticks]
    most = {name: FACTOR * max(measures[name] for measures in allowed) for name in allowed[0]}
    noise, number = most["root mean square error"] / FACTOR, math.sqrt(error.numel())
    scale, size = exact.abs().max().item(), _root_mean_square(exact)
    kind = torch.finfo(dtype)
    # Below the smallest normal number the steps no longer shrink.
    step, floor = (max(kind.eps * value, kind.smallest_normal * kind.eps) for value in (scale, size))
    floor *= 1 + (ROUNDING - 1) / number
    most["largest error"] += ROUNDING * step
    most["root mean square error"] += floor
    # Rounding errors are independent, so that their mean shrinks with their number; what does not shrink is a bias,
    # towards zero or away from it or to one side.
    for bias in ("signed bias", "bias away from zero"):
        most[bias] += 4 * (noise + floor) / number + 0.1 * floor
    most["angle"] += floor / size if size > 0 else math.inf
    found = [(name, value) for name, value in _measures(error, exact).items() if not value <= most[name]]
    return max((_exceeding(name, value, most[name]) for name, value in found), default=None)


def _exceeding(name: str, value: float, most: float) -> Excess:
    times = value / most if most > 0 and not math.isnan(value) else math.inf
    return Excess(times, f"{name} {value:.3g}, expected at most {most:.3g}")


def _fail(excess: Excess) -> None:
    raise AssertionError(excess.message)


def _measures(error: Tensor, exact: Tensor) -> dict[str, float]:
    """The sizes of an error."""
    return {
        "largest error": error.abs().max().item(),
        "root mean square error": _root_mean_square(error),
        "signed bias": abs(error.mean().item()),
        "bias away from zero": abs((error * exact.sign()).mean().item()),
        "angle": _turned_by(error, exact),
    }


def _assert_same_specials(actual: Tensor, plain: Tensor) -> Tensor:
    """Checks that NaN and infinities stand in the same places; returns where numbers stand."""
    assert torch.equal(actual.isnan(), plain.isnan()), "NaN in other places"
    infinite = plain.isinf()
    assert torch.equal(actual.isinf(), infinite), "infinities in other places"
    assert torch.equal(actual[infinite], plain[infinite]), "infinities of another sign"
    return plain.isfinite()


def _turned_by(error: Tensor, exact: Tensor) -> float:
    """The angle, in radians, by which a small error turns a vector: its cosine is 1 less half the square of this."""
    square = (exact * exact).sum()
    if square == 0:
        return 0.0
    return ((error - exact * ((error * exact).sum() / square)).norm() / square.sqrt()).item()


def _root_mean_square(values: Tensor) -> float:
    return math.sqrt((values * values).mean().item())
