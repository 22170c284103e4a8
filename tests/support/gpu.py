"""The ops on a CUDA device, as a backend of the op tests: arguments go there as they lie in memory."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import pytest
import torch
from torch import Tensor

from fastalign.ops import native

REQUIRED = os.environ.get("FASTALIGN_REQUIRE_CUDA") == "1"


@functools.cache
def missing() -> str | None:
    """Why the CUDA kernels cannot run here, None where they can."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return native.cuda_left_out() or native.cuda_devices()[torch.cuda.current_device()]["why_not"]


def skip(reason: str) -> None:
    """Skips a test for want of something on CUDA, or fails it where FASTALIGN_REQUIRE_CUDA=1."""
    if REQUIRED:
        pytest.fail(f"FASTALIGN_REQUIRE_CUDA=1, but {reason}")
    pytest.skip(reason)


def set_precision(precision: str) -> None:
    """Of all float32 products: "ieee" or "tf32"."""
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]


def moved(value: Any, device: str = "cuda") -> Any:
    """A tensor, or those in a list, on a device: with its strides, and as far from an aligned address."""
    if isinstance(value, list):
        return [moved(v, device) for v in value]
    if not isinstance(value, Tensor):
        return int(value) if isinstance(value, IntEnum) else value
    storage = torch.empty(0, dtype=value.dtype, device=value.device).set_(value.untyped_storage())
    return storage.to(device).as_strided(value.shape, value.stride(), value.storage_offset())


def tensors(value: Any) -> list[Tensor]:
    """The tensor, or those in the list."""
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, Tensor)]


def parted(values: Sequence[Any], device: str) -> list[Any]:
    """The arguments with the last one that holds tensors on another device; as they are where no other holds any."""
    holders = [i for i, value in enumerate(values) if tensors(value)]
    return [moved(value, device) if i == holders[-1] != holders[0] else value for i, value in enumerate(values)]


def kernel(op: str) -> Callable[..., Any]:
    """The op on the device, in the precision of its dtype, from and to the CPU."""

    def run(*values: Any) -> Any:
        set_precision("ieee")
        arguments = moved(list(values))
        result = getattr(torch.ops.fastalign, op)(*arguments)
        if op.endswith("_"):
            for value, changed in zip(values, arguments, strict=True):
                for one, other in zip(tensors(value), tensors(changed), strict=True):
                    one.copy_(other)
        return back(result)

    return run


def back(result: Tensor | Sequence[Tensor] | None) -> Any:
    """Results on the CPU."""
    if result is None or isinstance(result, Tensor):
        return result if result is None else result.cpu()
    return [tensor.cpu() for tensor in result]
