"""The activations over their whole range: accuracy, the differences that must not cancel, NaN and infinities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import BACKENDS, DTYPES, Backend, assert_results, expected, needs_native, run_plain, without_library
from torch import Tensor

from fastalign.ops import reference
from fastalign.ops.activations import Activation

activations = pytest.mark.parametrize("activation", Activation, ids=lambda a: a.name.lower())
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))

INF, NAN = float("inf"), float("nan")
SPECIAL = [0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 100.0, -100.0, 3e38, -3e38, 1e-40, -1e-40, 19.9, 20.1, 87.5, -103.5]


def spread(dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Values of every size that matters, more than one vector of each."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [1e-6, 1e-2, 1.0, 4.0, 30.0, 200.0]
    return torch.cat([size * torch.randn(401, generator=generator) for size in sizes]).to(dtype)


def check(backend: Backend, op: str, *values: Any) -> None:
    assert_results(backend.run(op, values), op, values)


@dtypes
@activations
@without_library
def test_forward(backend: Backend, activation: Activation, dtype: torch.dtype) -> None:
    # Size by size: the largest value must not excuse the errors of the smallest.
    for part in spread(dtype).split(401):
        check(backend, "activation_forward", part, activation, 0.0, None)


@dtypes
@activations
@without_library
def test_backward(backend: Backend, activation: Activation, dtype: torch.dtype) -> None:
    for part in spread(dtype).split(401):
        check(backend, "activation_backward", torch.ones_like(part), part, activation, False, 0.0, None)


@activations
@pytest.mark.parametrize("op", ["activation_forward", "activation_backward"])
def test_every_element_in_float32(op: str, activation: Activation) -> None:
    """Each by itself within a few units in the last place, so that no larger one excuses it."""
    if op == "activation_backward" and not activation.derivative_follows_from_output:
        pytest.skip("f′ has a zero, near which its rounding error is no part of it")
    sizes = torch.logspace(-6, 0.7, 5001)
    a = torch.cat((sizes, -sizes, torch.linspace(-5, 5, 20001)))
    before = () if op == "activation_forward" else (torch.ones_like(a),)
    after = (0.0, None) if op == "activation_forward" else (False, 0.0, None)
    (each,) = expected(op, (*before, a, activation, *after))
    (actual,) = BACKENDS["cpu"].run(op, (*before, a, activation, *after))
    most = 2.0 if op == "activation_forward" else 2.5
    if activation is Activation.GELU:
        most = 8.0  # far below 0 its exponent is rounded, a² / 2
    error = (actual - each.truth).abs()
    units = torch.where(error > 0, error / (torch.finfo(torch.float32).eps * each.truth.abs()), 0).max().item()
    assert units <= most, f"units in the last place {units:.3g}, expected at most {most}"


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=["float32", "bfloat16", "float16"])
@activations
@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.1, 0.3, 1.0, 10.0, 100.0])
@without_library
def test_difference(backend: Backend, size: float, activation: Activation, dtype: torch.dtype) -> None:
    for part in spread(dtype).split(401):
        delta = size * spread(dtype, 1)[802:1203]
        check(backend, "activation_difference", part, delta, activation, 0.0, None)


@activations
@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.1, 0.3, 1.0, 10.0, 100.0])
@without_library
def test_difference_in_float64(backend: Backend, size: float, activation: Activation) -> None:
    """Element by element within the rounding of plain float64, there being no wider dtype to compare with."""
    a, delta = spread(torch.float64), size * spread(torch.float64, 1)
    (actual,) = backend.run("activation_difference", (a, delta, activation, 0.0, None))
    moved, standard = reference.activate(a + delta, activation), reference.activate(a, activation)
    sizes = (1 + a.abs()) * (moved.abs() + standard.abs() + delta.abs()) + a.abs()
    rounding = 2 * torch.finfo(torch.float64).eps * sizes
    assert ((actual - (moved - standard)).abs() <= rounding).all()


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=["float32", "float64"])
@activations
def test_small_difference_does_not_cancel(activation: Activation, dtype: torch.dtype, size: float) -> None:
    """Of so small a part of a, plain PyTorch keeps two digits in float32; the kernels keep all but the last."""
    a, delta = spread(dtype)[802:1604], size * spread(dtype, 1)[802:1604]
    middle = (a.double() + delta.double() / 2, activation, False, 0.0, None)
    truth = reference.activation_backward(delta.double(), *middle)
    actual = torch.ops.fastalign.activation_difference(a, delta, activation, 0.0, None)
    smooth = (a > 0) == (a + delta > 0)
    assert (actual - truth).abs()[smooth].max() <= 8 * torch.finfo(dtype).eps * delta.abs().max()


@activations
@pytest.mark.parametrize("op", ["activation_forward", "activation_backward", "activation_difference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_specials_as_in_plain_pytorch(backend: Backend, dtype: torch.dtype, op: str, activation: Activation) -> None:
    a, b = (t.flatten() for t in torch.meshgrid(torch.tensor(SPECIAL), torch.tensor(SPECIAL), indexing="ij"))
    tail = (activation, 0.0, None)
    values = {
        "activation_forward": (a, *tail),
        "activation_backward": (b, a, activation, False, 0.0, None),
        "activation_difference": (a, b, *tail),
    }[op]
    for one in range(len(a)):  # one number at a time: on vectors plain gelu gives NaN for infinity, on numbers infinity
        values_of_one = tuple(v[one : one + 1].to(dtype) if isinstance(v, Tensor) else v for v in values)
        (actual,) = backend.run(op, values_of_one)
        (plain,) = run_plain(op, values_of_one)
        if op == "activation_backward" and b[one].isinf() and a[one].isfinite() and a[one].abs() > 10:
            continue  # infinity times a slope that one of the two may round to 0
        assert actual.isnan().item() == plain.isnan().item(), (a[one], b[one], actual, plain)
        if not plain.isfinite() and not plain.isnan():
            assert actual.item() == plain.item(), (a[one], b[one])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@without_library
def test_every_half_goes_through_unchanged(backend: Backend, dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    (same,) = backend.run("activation_forward", (every, Activation.IDENTITY, 0.0, None))
    numbers = ~every.isnan()
    assert torch.equal(same.view(torch.int16)[numbers], every.view(torch.int16)[numbers])
    assert same[~numbers].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@without_library
def test_halves_are_rounded_to_nearest_even(backend: Backend, dtype: torch.dtype) -> None:
    """The product of two halves, exact in float32, rounds as torch rounds it: ties, denormals and overflow too."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (1 << 16,), generator=generator).to(torch.int16)
    a = bits.view(dtype)
    for factor in (0.75, 1.25e-4, 240.0, -3.0):
        scale = torch.tensor(factor, dtype=dtype)
        x = a[:, None]
        (actual,) = backend.run("modulate_input", (torch.zeros_like(x), x, scale.reshape(1, 1), 1.0))
        expected = (a.float() * scale.float()).to(dtype)
        assert torch.equal(actual[:, 0][~expected.isnan()], expected[~expected.isnan()])
