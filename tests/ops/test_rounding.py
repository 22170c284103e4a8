"""The model of rounding errors: as large as those of real sums, the same everywhere, and too small to hide a fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from compare import Expected, assert_as_accurate
from rounding import modelled
from torch import Tensor

Operands = tuple[Tensor, Tensor]


def drawn(terms: int, mean: float = 0.0, seed: int = 0) -> Operands:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(40, terms, generator=generator) + mean, torch.randn(terms, 30, generator=generator) + mean


def product(operands: Operands) -> tuple[Tensor]:
    left, right = operands
    return (left @ right,)


def term_by_term(operands: Operands) -> Tensor:
    left, right = operands
    total = torch.zeros(len(left), right.shape[1])
    for k in range(len(right)):
        total = total + left[:, k : k + 1] * right[k : k + 1]
    return total


def root_mean_square(error: Tensor) -> float:
    return float(error.double().square().mean().sqrt())


@pytest.mark.parametrize("mean", [0.0, 1.0])
@pytest.mark.parametrize("terms", [2, 3, 16, 300])
def test_a_sum_has_the_error_of_one_taken_term_by_term(terms: int, mean: float) -> None:
    operands = drawn(terms, mean)
    exact = operands[0].double() @ operands[1].double()
    real = root_mean_square(term_by_term(operands) - exact)
    for (draw,) in modelled(product, operands)[:4]:
        assert real <= root_mean_square(draw - exact) <= 3 * real


def test_an_exact_operation_has_no_error() -> None:
    values = torch.arange(-8.0, 8).reshape(4, 4)
    for (draw,) in modelled(lambda v: (torch.where(v[0] > 0, 2 * v[0], -v[0]).relu(),), (values,))[:4]:
        assert torch.equal(draw, torch.where(values > 0, 2 * values, -values))


def test_the_draws_are_always_the_same_and_differ_from_each_other() -> None:
    operands = drawn(20)
    first, second = modelled(product, operands), modelled(product, operands)
    assert all(torch.equal(one, other) for (one,), (other,) in zip(first, second, strict=True))
    assert not torch.equal(first[0][0], first[1][0])


def test_equal_sums_have_equal_errors() -> None:
    left, right = drawn(20)
    for (draw,) in modelled(product, (left[:1].expand(5, 20), right))[:4]:
        assert torch.equal(draw, draw[:1].expand_as(draw))


FAULTS: dict[str, Callable[[Operands], Tensor]] = {
    "the last term dropped": lambda v: v[0][:, :-1] @ v[1][:-1],
    "operands in bfloat16": lambda v: (v[0].bfloat16() @ v[1].bfloat16()).float(),
    "one operand in bfloat16": lambda v: v[0].bfloat16().float() @ v[1],
    "one term in bfloat16": lambda v: v[0] @ v[1] + (t := v[0][:, :1] * v[1][:1]).bfloat16().float() - t,
    "operands in TF32": lambda v: truncated(v[0]) @ truncated(v[1]),
    "the result in bfloat16": lambda v: (v[0] @ v[1]).bfloat16().float(),
    "a sum in float16": lambda v: (v[0].half() @ v[1].half()).float(),
    "a scale of 1 + 1e-5": lambda v: (v[0] @ v[1]) * (1 + 1e-5),
    "one element off": lambda v: (v[0] @ v[1]).index_put((torch.tensor([3]), torch.tensor([5])), torch.tensor(0.0)),
}


def truncated(values: Tensor) -> Tensor:
    return (values.view(torch.int32) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("terms", [7, 260, 1152])
@pytest.mark.parametrize("fault", FAULTS)
def test_it_hides_no_fault(fault: str, terms: int) -> None:
    operands = drawn(terms)
    draws: Sequence[Tensor] = [draw for (draw,) in modelled(product, operands)]
    expected = Expected(operands[0].double() @ operands[1].double(), product(operands)[0], lambda: draws)
    assert_as_accurate(term_by_term(operands), expected)
    with pytest.raises(AssertionError):
        assert_as_accurate(FAULTS[fault](operands), expected)
