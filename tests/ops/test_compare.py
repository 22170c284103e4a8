"""The comparison itself: what it lets pass, and each fault that it must catch."""

from __future__ import annotations

import pytest
import torch
from compare import Expected, assert_as_accurate
from torch import Tensor

HALF = torch.bfloat16


@pytest.fixture
def truth() -> Tensor:
    return torch.randn(4096, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def truncated(values: Tensor) -> Tensor:
    """To bfloat16 by cutting bits off instead of rounding."""
    return (values.float().view(torch.int32) & ~0xFFFF).view(torch.float32).bfloat16()


def test_plain_itself_and_better_pass(truth: Tensor) -> None:
    plain = truth.to(HALF) * torch.tensor(1.01, dtype=HALF)
    assert_as_accurate(plain, Expected(truth, plain))
    assert_as_accurate(truth.to(HALF), Expected(truth, plain))


def test_last_places_pass_where_plain_is_exact() -> None:
    truth = torch.arange(1.0, 65, dtype=torch.float64)
    plain = truth.float()
    one_place_off = 2**-23 * torch.tensor([0, 1, 0, -1]).repeat(16)
    assert_as_accurate(plain * (1 + one_place_off), Expected(truth, plain))


def test_three_times_the_error_fails(truth: Tensor) -> None:
    noise = 1e-3 * torch.randn(4096, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert_as_accurate((truth + 1.5 * noise).float(), Expected(truth, (truth + noise).float()))
    with pytest.raises(AssertionError, match="error"):
        assert_as_accurate((truth + 3 * noise).float(), Expected(truth, (truth + noise).float()))


def test_one_outlier_fails(truth: Tensor) -> None:
    actual = truth.to(HALF)
    actual[17] += 0.25
    with pytest.raises(AssertionError, match="largest error"):
        assert_as_accurate(actual, Expected(truth, truth.to(HALF)))


def test_bias_under_the_largest_error_fails(truth: Tensor) -> None:
    with pytest.raises(AssertionError, match="bias"):
        assert_as_accurate(truncated(truth), Expected(truth, truth.to(HALF)))
    with pytest.raises(AssertionError, match="signed bias"):
        assert_as_accurate((truth.to(HALF).double() + 2e-3).float(), Expected(truth, truth.to(HALF).float()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_wrong_sign_fails(truth: Tensor, dtype: torch.dtype) -> None:
    with pytest.raises(AssertionError):
        assert_as_accurate(-truth.to(dtype), Expected(truth, truth.to(dtype)))


def test_direction_is_bounded() -> None:
    truth = torch.zeros(10000, dtype=torch.float64)
    truth[0] = 1e4
    plain = truth.clone()
    plain[1] = 30.0  # one outlier of plain's must not license an error everywhere
    actual = truth.clone()
    actual[1:] = 0.7 * (-1) ** torch.arange(9999)
    with pytest.raises(AssertionError, match=r"angle|root mean square"):
        assert_as_accurate(actual.float(), Expected(truth, plain.float()))


def test_specials_must_stand_in_the_same_places(truth: Tensor) -> None:
    inf, nan = float("inf"), float("nan")
    plain = truth.float()
    plain[3], plain[5] = nan, inf
    for wrong in (0.0, inf):
        actual = plain.clone()
        actual[3] = wrong
        with pytest.raises(AssertionError, match="NaN"):
            assert_as_accurate(actual, Expected(truth, plain))
    actual = plain.clone()
    actual[5] = -inf
    with pytest.raises(AssertionError, match="infinities"):
        assert_as_accurate(actual, Expected(truth, plain))


def test_shape_and_dtype_must_agree(truth: Tensor) -> None:
    with pytest.raises(AssertionError, match="dtype"):
        assert_as_accurate(truth.float(), Expected(truth, truth.to(HALF)))
    with pytest.raises(AssertionError, match="shape"):
        assert_as_accurate(truth.float()[None], Expected(truth, truth.float()))


def test_empty_passes() -> None:
    empty = torch.empty(0, 3, dtype=torch.float64)
    assert_as_accurate(empty.float(), Expected(empty, empty.float()))
