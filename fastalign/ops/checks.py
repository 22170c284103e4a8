"""Argument checks: every error names the argument, what came and what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastalign.ops.transforms import have_tangents

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def tensors(**arguments: Tensor) -> None:
    """All are floating-point tensors of one dtype, on one device."""
    first_name, first = next(iter(arguments.items()))
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
        if value.layout is not torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, torch.strided, got layout {value.layout}")
        if value.dtype not in DTYPES:
            raise TypeError(f"{name}: expected dtype float64, float32, bfloat16 or float16, got {value.dtype}")
        if value.dtype != first.dtype:
            raise TypeError(f"{name}: expected dtype {first.dtype}, that of {first_name}, got {value.dtype}")
        if value.device != first.device:
            raise ValueError(f"{name}: expected device {first.device}, that of {first_name}, got {value.device}")


def shape(name: str, value: Tensor, expected: Sequence[int | None], meaning: str) -> None:
    """The tensor has the expected shape, None standing for any size; `meaning` spells the shape in words."""
    fits = value.dim() == len(expected) and all(e is None or e == s for e, s in zip(expected, value.shape, strict=True))
    if not fits:
        sizes = ", ".join("*" if e is None else str(e) for e in expected)
        raise ValueError(f"{name}: expected shape ({sizes}) = {meaning}, got {tuple(value.shape)}")


def rank(name: str, value: Tensor, expected: Sequence[int], meaning: str) -> None:
    """The tensor has one of the expected numbers of dimensions."""
    if value.dim() not in expected:
        raise ValueError(f"{name}: expected shape {meaning}, got {tuple(value.shape)}")


def no_gradient(op: str, **arguments: Tensor) -> None:
    """None of the tensors asks for a derivative that the op does not have."""
    if have_tangents(arguments.values()):
        raise RuntimeError(
            f"{op}: one of {', '.join(arguments)} is a dual tensor of forward-mode differentiation (jvp), but a "
            "learning rule's update has no derivative; take its primal (torch.autograd.forward_ad.unpack_dual)"
        )
    if torch.is_grad_enabled():
        for name, value in arguments.items():
            if value.requires_grad:
                raise RuntimeError(
                    f"{op}: {name} requires grad, but a learning rule's update has no gradient; "
                    "detach it or call under torch.no_grad()"
                )


def pair(name: str, value: int | Sequence[int], least: int) -> tuple[int, int]:
    """An int or two ints as two ints, each at least `least`."""
    if not isinstance(value, (int, Sequence)):
        raise TypeError(f"{name}: expected an int or two ints, got {value!r}")
    values = (value, value) if isinstance(value, int) else tuple(value)
    if len(values) != 2 or not all(isinstance(v, int) for v in values):
        raise ValueError(f"{name}: expected an int or two ints, got {value!r}")
    if min(values) < least:
        raise ValueError(f"{name}: expected at least {least}, got {value!r}")
    if max(values) >= 2**31:
        raise ValueError(f"{name}: expected less than 2^31, got {value!r}")
    return values[0], values[1]


def number(name: str, value: Any) -> float:
    """The value as a float."""
    try:
        if not isinstance(value, str):  # of which float would read one
            return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass
    raise TypeError(f"{name}: expected a number, got {value!r}")
