"""The comparison that every kernel has to pass: as accurate as plain PyTorch in the same dtype, within a factor of two.

No tolerance is tuned by hand. The truth is the reference in float64; the yardstick is the error of the reference in the
kernel's own dtype. A few outliers cannot hide a systematic error: besides the largest error and the root of the mean
square, the direction (cosine) and the signed bias are bounded too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FACTOR = 2.0  # how many times plain PyTorch's error a kernel may have
ROUNDING = 2.0  # units in the last place of the largest value on top, where plain PyTorch is exact by luck


def assert_as_accurate(actual: Tensor, truth: Tensor, plain: Tensor) -> None:
    """Raises AssertionError where `actual` is less accurate than `plain`, both of one dtype; truth is float64."""
    assert actual.dtype == plain.dtype, f"dtype {actual.dtype}, expected {plain.dtype}"
    assert actual.shape == truth.shape, f"shape {tuple(actual.shape)}, expected {tuple(truth.shape)}"
    finite = _assert_same_specials(actual.double(), plain.double()) & truth.isfinite()
    if not finite.any():
        return
    exact = truth[finite]
    error, allowed = actual.double()[finite] - exact, plain.double()[finite] - exact
    unit = torch.finfo(actual.dtype).eps

    scale = exact.abs().max().item()
    # Below the smallest normal number the steps no longer shrink.
    floor = ROUNDING * max(unit * scale, torch.finfo(actual.dtype).smallest_normal * unit)
    _assert_at_most("largest error", error.abs().max().item(), FACTOR * allowed.abs().max().item() + floor)

    number = math.sqrt(error.numel())
    size, noise = _root_mean_square(exact), _root_mean_square(allowed)
    floor = max(unit * size, torch.finfo(actual.dtype).smallest_normal * unit) * (1 + (ROUNDING - 1) / number)
    _assert_at_most("root mean square error", _root_mean_square(error), FACTOR * noise + floor)

    # Rounding errors are independent, so that their mean shrinks with their number; what does not shrink is a bias,
    # towards zero or away from it or to one side.
    for name, sign in (("signed bias", torch.ones_like(exact)), ("bias away from zero", exact.sign())):
        bias, plain_bias = (error * sign).mean().item(), (allowed * sign).mean().item()
        allowance = FACTOR * abs(plain_bias) + 4 * (noise + floor) / number + 0.1 * floor
        _assert_at_most(name, abs(bias), allowance)

    if size > 0:
        turned, plain_turned = _turned_by(error, exact), _turned_by(allowed, exact)
        _assert_at_most("angle", turned, FACTOR * plain_turned + floor / size)


def _assert_same_specials(actual: Tensor, plain: Tensor) -> Tensor:
    """Checks that NaN and infinities stand in the same places; returns where numbers stand."""
    assert torch.equal(actual.isnan(), plain.isnan()), "NaN in other places"
    infinite = plain.isinf()
    assert torch.equal(actual.isinf(), infinite), "infinities in other places"
    assert torch.equal(actual[infinite], plain[infinite]), "infinities of another sign"
    return plain.isfinite()


def _turned_by(error: Tensor, exact: Tensor) -> float:
    """The angle, in radians, by which a small error turns a vector: its cosine is 1 less half the square of this."""
    across = error - exact * ((error * exact).sum() / (exact * exact).sum())
    return (across.norm() / exact.norm()).item()


def _root_mean_square(values: Tensor) -> float:
    return math.sqrt((values * values).mean().item())


def _assert_at_most(name: str, value: float, bound: float) -> None:
    assert value <= bound, f"{name} {value:.3g}, expected at most {bound:.3g}"
