"""The same bits at every run, and across thread counts where no library call stands in the way."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from cases import BACKENDS, CASES, DTYPES, TESTED, Arguments, Backend, Options, Size, arguments, needs_native
from torch import Tensor

from fastalign.ops.schemas import kernels

LARGE = Size(samples=100, classes=10, units=1000, inputs=120)
BY_LIBRARY = {op for op in CASES if "update" in op or op in ("linear_steps_", "feedback_steps_")}
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


@pytest.fixture
def threads() -> Iterator[None]:
    """Gives the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bits(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return [tensor.flatten().view(torch.uint8) for tensor in tensors]


def same(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(bits(first), bits(second), strict=True))


def large(op: str, dtype: torch.dtype) -> Arguments:
    if "conv2d" in op:
        return arguments(op, dtype, Size(samples=16))
    return arguments(op, dtype, LARGE, Options(dropout=0.0 if op in BY_LIBRARY else 0.2))


@pytest.fixture(params=[name for name in TESTED if not name.startswith("emulated")])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Not the emulator, which runs every call of every test in several orders of its threads."""
    return BACKENDS[request.param]


@dtypes
@pytest.mark.parametrize("op", CASES)
def test_same_bits_at_every_run(backend: Backend, op: str, dtype: torch.dtype) -> None:
    first = backend.run(op, large(op, dtype))
    assert all(same(first, backend.run(op, large(op, dtype))) for _ in range(3))


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
@dtypes
@pytest.mark.parametrize("op", [op for op in CASES if op not in BY_LIBRARY])
def test_same_bits_with_any_number_of_threads(backend: Backend, op: str, dtype: torch.dtype, threads: None) -> None:
    results = []
    for number in (1, 2, 3, 5):
        torch.set_num_threads(number)
        results.append(backend.run(op, large(op, dtype)))
    assert all(same(results[0], result) for result in results[1:])


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
@dtypes
@pytest.mark.parametrize("op", sorted(BY_LIBRARY))
def test_biases_have_the_same_bits_with_any_number_of_threads(
    backend: Backend, op: str, dtype: torch.dtype, threads: None
) -> None:
    biases = []
    for number in (1, 2, 3, 5):
        torch.set_num_threads(number)
        biases.append(tuple(result for result in backend.run(op, large(op, dtype)) if result.dim() == 1))
    assert all(same(biases[0], bias) for bias in biases[1:])


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
@dtypes
def test_steps_by_parts_of_delta_have_the_bits_of_steps_by_all_of_it(dtype: torch.dtype, threads: None) -> None:
    """Where the library multiplies nothing, or bfloat16 in sums that it takes in one piece."""
    values = arguments("feedback_steps_", dtype, Size(samples=64, units=5000, inputs=120))
    *layers, signal, feedback, kept, pre, activation, given_output, scale, descent, settings = values
    expected = copy.deepcopy(layers)
    post = kernels.feedback_terms(signal, feedback, kept, activation, given_output)
    kernels.linear_steps_(*expected, post, pre, scale, descent, settings)
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        found = copy.deepcopy(layers)
        kernels.feedback_steps_(*found, signal, feedback, kept, pre, activation, given_output, scale, descent, settings)
        assert all(same(tuple(ours), tuple(theirs)) for ours, theirs in zip(found, expected, strict=True))


@dtypes
def test_one_region_for_all_layers_gives_the_bits_of_one_for_each(backend: Backend, dtype: torch.dtype) -> None:
    for classes in (10, 260):
        values = arguments("feedback_terms", dtype, Size(samples=37, classes=classes, units=211))
        signal, feedback, kept, activation, given_output = values
        together = backend.run("feedback_terms", values)
        apart = tuple(
            backend.run("feedback_term", (signal, b, a, activation, given_output, 0.0, None))[0]
            for b, a in zip(feedback, kept, strict=True)
        )
        assert same(together, apart)
