"""Matrix products of the CUDA kernels, under the emulator: tiles, memory orders, arithmetics, and who computes them."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import emulator
import pytest
import torch
from cases import DTYPES, LAYOUTS, Draw, Options, Size, arguments, assert_results, expected_of
from compare import assert_as_accurate
from torch import Tensor

MISSING = emulator.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))

# Rows, terms and columns around the tile of 64 × 64, its steps of 8, 16 and 32 terms and their four stages; primes;
# multiples of 8, whose rows take vectors.
SIZES = [
    (1, 1, 1),
    (63, 10, 65),
    (64, 32, 64),
    (65, 31, 63),
    (2, 33, 128),
    (129, 7, 8),
    (16, 104, 72),
    (67, 101, 131),
    (3, 1000, 5),
    (8, 264, 136),
]


def fused_product(
    left: Tensor, right: Tensor, module: ModuleType | None = None, schedule: int = 1, **settings: Any
) -> Tensor:
    """left · rightᵀ by the tiled kernel."""
    module = module or emulator.kernels()
    result = torch.full((len(left), len(right)), float("nan"), dtype=left.dtype)
    device = emulator.device(module, schedule, **settings)
    module.fused_product(device, *map(emulator.array, (left, right, result)))
    assert (device.launches, device.products) == (1, 0)
    return result


def rounded_to_tf32(values: Tensor) -> Tensor:
    """The nearest numbers of 10 bits after the first, ties away from zero."""
    return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def plain_product(operands: Sequence[Tensor]) -> tuple[Tensor]:
    left, right = operands
    wide = torch.promote_types(left.dtype, torch.float32)
    return ((left.to(wide) @ right.to(wide).T).to(left.dtype),)


def check(result: Tensor, left: Tensor, right: Tensor) -> None:
    (product,) = expected_of(plain_product, plain_product, (left, right))
    assert_as_accurate(result, product)


@dtypes
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("right_layout", ["contiguous", "transposed"])
def test_tiles(right_layout: str, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, terms, columns = size
    left, right = Draw(dtype)(rows, terms), Draw(dtype, right_layout, seed=1)(columns, terms)
    results = [fused_product(left, right, schedule=schedule) for schedule in (1, 2)]
    assert torch.equal(*map(emulator.bits, results))
    check(results[0], left, right)


@dtypes
@pytest.mark.parametrize("right_layout", [layout for layout in LAYOUTS if layout != "channels_last"])
@pytest.mark.parametrize("left_layout", [layout for layout in LAYOUTS if layout != "channels_last"])
def test_layouts(left_layout: str, right_layout: str, dtype: torch.dtype) -> None:
    left, right = Draw(dtype, left_layout)(16, 40), Draw(dtype, right_layout, seed=1)(72, 40)
    check(fused_product(left, right), left, right)


@pytest.mark.parametrize("right_layout", ["contiguous", "transposed", "strided"])
@pytest.mark.parametrize("size", [(65, 7, 63), (16, 104, 72), (3, 1000, 5)], ids=lambda size: "x".join(map(str, size)))
def test_tf32(size: tuple[int, int, int], right_layout: str) -> None:
    rows, terms, columns = size
    left, right = Draw(torch.float32)(rows, terms), Draw(torch.float32, right_layout, seed=1)(columns, terms)
    (product,) = expected_of(
        plain_product, lambda v: plain_product([rounded_to_tf32(tensor) for tensor in v]), (left, right)
    )
    assert_as_accurate(fused_product(left, right, tf32=True), product)
    rounded = fused_product(rounded_to_tf32(left), rounded_to_tf32(right), tf32=True)
    assert torch.equal(*map(emulator.bits, (fused_product(left, right, tf32=True), rounded)))


@pytest.fixture(scope="module")
def before_sm_80() -> ModuleType:
    """The kernels as devices without matrix instructions run them."""
    source = emulator.CSRC / "cuda" / "kernels" / "product.cu"
    return emulator.with_fault("before_sm_80", source, r"\A", "#define FASTALIGN_BEFORE_SM_80 1\n")


@pytest.mark.slow
@pytest.mark.parametrize("right_layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_without_tensor_cores(before_sm_80: ModuleType, dtype: torch.dtype, right_layout: str) -> None:
    left, right = Draw(dtype)(65, 104), Draw(dtype, right_layout, seed=1)(72, 104)
    check(fused_product(left, right, before_sm_80), left, right)


# Few terms are projected; a result of the library's is made in two steps.
@dtypes
@pytest.mark.parametrize("terms", [10, 300])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("force", ["fused", "library", "nothing"])
@pytest.mark.parametrize("op", ["linear_forward", "linear_difference"])
def test_methods(op: str, force: str, dropout: float, terms: int, dtype: torch.dtype) -> None:
    values = arguments(op, dtype, Size(samples=5, units=72, inputs=terms), Options(dropout=dropout))
    device = emulator.device(emulator.kernels(), force=force)
    results = emulator.run(op, values, device)
    results = [results] if isinstance(results, Tensor) else results
    assert_results(results, op, values)
    assert (device.launches, device.products) == (1, int(force == "library"))


def test_forward_without_bias_and_preactivation() -> None:
    x, weight, _, *rest, _ = arguments("linear_forward", torch.float32, Size(samples=5, units=70, inputs=300))
    for force in ("fused", "library"):
        values = (x, weight, None, *rest, False)
        results = emulator.run("linear_forward", values, emulator.device(emulator.kernels(), force=force))
        assert_results(results, "linear_forward", values)


def test_without_a_library_the_kernel_multiplies() -> None:
    values = arguments("linear_difference", torch.float32, Size(samples=5, units=70, inputs=300))
    device = emulator.device(emulator.kernels(), force="library", library=False)
    assert_results(emulator.run("linear_difference", values, device), "linear_difference", values)
    assert (device.launches, device.products) == (1, 0)


@pytest.mark.parametrize(
    ("dtype", "tf32", "rows", "terms", "columns", "method"),
    [
        (torch.float32, False, 64, 10, 1024, "projection"),
        (torch.bfloat16, False, 65536, 32, 65536, "projection"),
        (torch.bfloat16, False, 256, 100, 1024, "projection"),
        (torch.bfloat16, False, 4096, 33, 1024, "fused"),
        (torch.float32, True, 4096, 33, 1024, "fused"),
        (torch.float32, False, 4096, 33, 1024, "projection"),
        (torch.float64, False, 4096, 256, 4096, "projection"),
        (torch.float64, False, 64, 257, 64, "fused"),
        (torch.float16, False, 64, 784, 1024, "fused"),
        (torch.float32, False, 256, 1024, 1024, "fused"),
        (torch.float32, False, 257, 1024, 1024, "library"),
        (torch.bfloat16, False, 1 << 40, 1 << 40, 1 << 40, "library"),
    ],
)
def test_choice(dtype: torch.dtype, tf32: bool, rows: int, terms: int, columns: int, method: str) -> None:
    module, name = emulator.kernels(), str(dtype).removeprefix("torch.")
    left, right = (0, name, [rows, terms], [terms, 1]), (0, name, [columns, terms], [terms, 1])
    assert module.choose(emulator.device(module, force="nothing", tf32=tf32), left, right) == method
    fused = "fused" if method == "library" else method
    assert module.choose(emulator.device(module, force="fused", tf32=tf32), left, right) == fused
    assert module.choose(emulator.device(module, force="library", tf32=tf32), left, right) == "library"
