"""Random calls of the public ops: right numbers or a named error, and inputs that stay as they were."""

from __future__ import annotations

import inspect
import math
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastalign import ops

DTYPES = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.1}
ACTIVATIONS = ("identity", "tanh", "relu", "sigmoid")
WRONG_NUMBERS = (0, -1, 2**70, math.inf, math.nan, 1.5, None, "a", (), (1,), (1, 2, 3), [1, None], object())
Call = tuple[Callable[..., Any], dict[str, Any]]


def layouts(value: Tensor) -> list[Tensor]:
    """The same numbers, laid out otherwise."""
    apart = torch.empty(value.numel() + 1, dtype=value.dtype)[1:].view(value.shape).copy_(value)
    others = [value, value.repeat_interleave(2, 0)[::2], value.transpose(0, -1).contiguous().transpose(0, -1), apart]
    if value.dtype is torch.bfloat16:
        return others
    negative = torch.complex(value, -value).conj().imag
    assert negative.is_neg()
    return [*others, negative]


def wrong_tensors(value: Tensor) -> list[Any]:
    cut = [value.narrow(d, 0, max(0, value.shape[d] - 1)) for d in range(value.dim())]
    return [None, [1.0], "a", value.int(), value.to_sparse(), value.to("meta"), value[None], value.flatten(), *cut]


def right_call(chance: random.Random, dtype: torch.dtype) -> Call:
    """An op with arguments that fit."""
    generator = torch.Generator().manual_seed(chance.getrandbits(32))

    def tensor(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    n, c, h, k = (chance.randrange(0, 6), *(chance.randrange(1, 6) for _ in range(3)))
    size, stride, padding = chance.randrange(1, 4), chance.randrange(1, 3), chance.randrange(0, 2)
    side = size + chance.randrange(0, 4)
    out = (side + 2 * padding - size) // stride + 1
    images, maps = tensor(n, k, side, side), tensor(n, h, out, out)
    convolution = {"kernel_size": size, "stride": stride, "padding": padding}
    activation = {"activation": chance.choice(ACTIVATIONS)}
    error = tensor(n, c)
    calls: list[Call] = [
        (ops.dfa_projection, {"error": error, "feedback": tensor(h, c), "preactivation": tensor(n, h), **activation}),
        (
            ops.dfa_linear_update,
            {"error": error, "feedback": tensor(h, c), "preactivation": tensor(n, h), "x": tensor(n, k), **activation},
        ),
        (
            ops.dfa_conv2d_update,
            {
                "error": error,
                "feedback": tensor(h * out * out, c),
                "preactivation": maps,
                "x": images,
                **(convolution | activation),
            },
        ),
        (ops.pepita_linear_update, {"h": tensor(n, h), "h_mod": tensor(n, h), "x_mod": tensor(n, k)}),
        (ops.pepita_conv2d_update, {"h": maps, "h_mod": tensor(n, h, out, out), "x_mod": images, **convolution}),
        (ops.modulate_input, {"x": tensor(n, k), "error": error, "projection": tensor(k, c), "sign": 0.5}),
    ]
    return chance.choice(calls)


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def numbers_are_right(result: Any, op: Callable[..., Any], right: dict[str, Any], tolerance: float) -> None:
    expected = as_tuple(op(**{n: v.double() if isinstance(v, Tensor) else v for n, v in right.items()}))
    for ours, theirs in zip(as_tuple(result), expected, strict=True):
        scale = max(1.0, theirs.abs().max().item()) if theirs.numel() else 1.0
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("calls", [300, pytest.param(15_000, marks=pytest.mark.slow)])
def test_random_calls(calls: int) -> None:
    refused = 0
    for seed in range(calls):
        chance = random.Random(seed)
        dtype = chance.choice(list(DTYPES))
        op, right = right_call(chance, dtype)
        given = {n: chance.choice(layouts(v)) if isinstance(v, Tensor) else v for n, v in right.items()}
        changed = chance.choice(list(given)) if chance.random() < 0.4 else None
        if changed is not None:
            value = given[changed]
            given[changed] = chance.choice(wrong_tensors(value) if isinstance(value, Tensor) else WRONG_NUMBERS)
        error: Exception | None = None
        try:
            result = op(**given)
        except Exception as caught:
            error = caught
        if changed is None:
            assert error is None, f"call {seed}: {op.__name__}: {error!r}"
            numbers_are_right(result, op, right, DTYPES[dtype])
        elif error is not None:
            names = "|".join(inspect.signature(op).parameters)
            named = type(error) in (TypeError, ValueError, RuntimeError) and re.match(rf"({names}): ", str(error))
            assert named, f"call {seed}: {op.__name__}({changed}={given[changed]!r}): {error!r}"
            refused += 1
        for name, value in right.items():
            if isinstance(value, Tensor) and name != changed:
                assert torch.equal(given[name], value), f"call {seed}: {op.__name__} has changed {name}"
    assert refused > calls / 10
