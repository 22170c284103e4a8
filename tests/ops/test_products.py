"""Matrix products of the CUDA kernels, under the emulator: tiles, memory orders, arithmetics, and who computes them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import emulator
import pytest
import torch
from cases import DTYPES, LAYOUTS, Draw
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


def check(result: Tensor, left: Tensor, right: Tensor) -> None:
    wide = torch.promote_types(left.dtype, torch.float32)
    plain = (left.to(wide) @ right.to(wide).T).to(left.dtype)
    truth = left.double() @ right.double().T
    if left.dtype == torch.float64:  # as for every op: what float64 itself is wrong by, nothing tells
        units = 1.5 * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
        plain = truth + units * ((left.float() @ right.float().T) - truth)
    assert_as_accurate(result, truth, plain)


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
    truth = left.double() @ right.double().T
    plain = rounded_to_tf32(left) @ rounded_to_tf32(right).T
    assert_as_accurate(fused_product(left, right, tf32=True), truth, plain)
    rounded = fused_product(rounded_to_tf32(left), rounded_to_tf32(right), tf32=True)
    assert torch.equal(*map(emulator.bits, (fused_product(left, right, tf32=True), rounded)))


@pytest.fixture(scope="module")
def before_sm_80() -> ModuleType:
    """The kernels as devices without matrix instructions run them."""
    cuda = emulator.CSRC / "cuda"
    emulator.FOLDER.mkdir(parents=True, exist_ok=True)
    kernels = emulator.FOLDER / "before_sm_80.cu"
    text = f'#define FASTALIGN_BEFORE_SM_80 1\n#include "{cuda / "product.cu"}"\n'
    if not kernels.exists() or kernels.read_text() != text:
        kernels.write_text(text)
    sources = (kernels, cuda / "choice.cpp", cuda / "operand.cpp")
    return emulator.build("before_sm_80", sources, (emulator.MODULE, emulator.MODULE.parent / "product.cpp"))


@pytest.mark.parametrize("right_layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_without_tensor_cores(before_sm_80: ModuleType, dtype: torch.dtype, right_layout: str) -> None:
    left, right = Draw(dtype)(65, 104), Draw(dtype, right_layout, seed=1)(72, 104)
    check(fused_product(left, right, before_sm_80), left, right)
