"""The updates of convolutions by the CUDA kernel: around its tiles, in every layout, split over the sum or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import emulator
import pytest
import torch
from cases import BACKENDS, DTYPES, LAYOUTS, Arguments, Backend, assert_results, expected, expected_of, run_reference
from compare import assert_as_accurate
from torch import Tensor

from fastalign.ops import reference
from fastalign.ops.activations import Activation
from fastalign.ops.descent import Descent, Settings

EMULATED = BACKENDS["emulated"]
ONE_PART, MANY_PARTS = 0, 1000  # multiprocessors that leave a sum whole, and that split it
on_emulator = pytest.mark.skipif(EMULATED.missing is not None, reason=str(EMULATED.missing))
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


@dataclass(frozen=True)
class Shape:
    """A convolution, and the maps that it reads and writes."""

    samples: int = 2
    inputs: int = 3
    outputs: int = 5
    size: tuple[int, int] = (8, 9)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def post(self) -> tuple[int, ...]:
        spans = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))
        steps = zip(self.size, self.padding, spans, self.stride, strict=True)
        return (self.samples, self.outputs, *((size + 2 * p - span) // s + 1 for size, p, span, s in steps))

    @property
    def pre(self) -> tuple[int, ...]:
        return (self.samples, self.inputs, *self.size)

    @property
    def convolution(self) -> Arguments:
        return (list(self.kernel), list(self.stride), list(self.padding), list(self.dilation), self.groups)


def draw(shape: tuple[int, ...], dtype: torch.dtype, layout: str = "contiguous", seed: int = 0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return LAYOUTS[layout](values)


def given(shape: Shape, dtype: torch.dtype, layout: str = "contiguous") -> Arguments:
    return (draw(shape.post, dtype, layout), draw(shape.pre, dtype, layout, 1), *shape.convolution, 0.25, True)


def difference(shape: Shape, dtype: torch.dtype, layout: str = "contiguous") -> Arguments:
    maps = (draw(shape.post, dtype, layout), draw(shape.post, dtype, layout, 2))
    return (*maps, draw(shape.pre, dtype, layout, 1), *shape.convolution)


def feedback_term(shape: Shape, dtype: torch.dtype) -> Arguments:
    units = shape.post[1] * shape.post[2] * shape.post[3]
    error, feedback = draw((shape.samples, 10), dtype, seed=3), draw((units, 10), dtype, seed=4)
    kept, x = draw(shape.post, dtype), draw(shape.pre, dtype, seed=1)
    return (error, feedback, kept, x, Activation.TANH, False, *shape.convolution)


def check_results(results: Any, op: str, values: Arguments) -> None:
    assert all(actual.is_contiguous() for actual in results)
    assert_results(results, op, values)


def check(backend: Backend, shape: Shape, dtype: torch.dtype, layout: str = "contiguous") -> None:
    for op, values in (
        ("conv2d_update", given(shape, dtype, layout)),
        ("pepita_conv2d_update", difference(shape, dtype, layout)),
    ):
        check_results(backend.run(op, values), op, values)


@dtypes
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 2), (5, 5), (7, 7)], ids=str)
def test_kernel(backend: Backend, kernel: tuple[int, int], stride: tuple[int, int], dtype: torch.dtype) -> None:
    check(backend, Shape(kernel=kernel, stride=stride), dtype)
    padding = (kernel[0] // 2, kernel[1] - 1)
    check(backend, Shape(size=(6, 4), kernel=kernel, stride=stride, padding=padding), dtype)


@dtypes
@pytest.mark.parametrize(
    "shape",
    [
        Shape(dilation=(2, 3)),
        Shape(kernel=(3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 4)),
        Shape(inputs=4, outputs=6, groups=2, padding=(1, 1)),
        Shape(inputs=5, outputs=5, groups=5),
        Shape(inputs=3, outputs=6, groups=3, kernel=(2, 1)),
    ],
    ids=lambda shape: f"dilation{shape.dilation}-groups{shape.groups}",
)
def test_dilation_and_groups(backend: Backend, shape: Shape, dtype: torch.dtype) -> None:
    check(backend, shape, dtype)


# Tiles are of 64 output channels and 64 columns (input channel, ky, kx), of which a warp has 32 and 32.
@dtypes
@pytest.mark.parametrize("outputs", [31, 33, 63, 64, 65])
def test_output_channels_around_a_tile(backend: Backend, outputs: int, dtype: torch.dtype) -> None:
    check(backend, Shape(outputs=outputs, size=(4, 4)), dtype)


@dtypes
@pytest.mark.parametrize(
    ("inputs", "kernel"), [(31, (1, 1)), (11, (3, 1)), (21, (3, 1)), (16, (2, 2)), (13, (1, 5)), (65, (2, 1))], ids=str
)
def test_columns_around_a_tile(backend: Backend, inputs: int, kernel: tuple[int, int], dtype: torch.dtype) -> None:
    check(backend, Shape(inputs=inputs, size=(5, 6), kernel=kernel), dtype)


# 8 positions are a vector of two bytes each, 4 of four bytes; steps of the sum are of 16 or 32.
@dtypes
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 4), (3, 4), (5, 3), (4, 4), (3, 11), (8, 4), (17, 1)], ids=str)
@pytest.mark.parametrize("samples", [1, 3])
def test_positions(backend: Backend, samples: int, size: tuple[int, int], dtype: torch.dtype) -> None:
    check(backend, Shape(samples=samples, inputs=2, size=size, kernel=(1, 1)), dtype)
    check(backend, Shape(samples=samples, inputs=1, size=size, padding=(1, 1)), dtype)


@dtypes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(backend: Backend, layout: str, dtype: torch.dtype) -> None:
    check(backend, Shape(samples=3, inputs=4, outputs=7, size=(10, 10)), dtype, layout)


@dtypes
def test_few_channels(backend: Backend, dtype: torch.dtype) -> None:
    """The shapes of the papers, of fewer samples."""
    check(backend, Shape(samples=1, inputs=1, outputs=32, size=(28, 28), kernel=(5, 5)), dtype)
    check(backend, Shape(samples=1, inputs=3, outputs=32, size=(14, 12), kernel=(5, 5)), dtype)
    check(backend, Shape(samples=1, inputs=9, outputs=66, size=(15, 15), kernel=(5, 5), padding=(2, 2)), dtype)


@dtypes
def test_feedback_term(backend: Backend, dtype: torch.dtype) -> None:
    for shape in (Shape(padding=(1, 1)), Shape(samples=0), Shape(inputs=4, outputs=6, groups=2)):
        values = feedback_term(shape, dtype)
        check_results(backend.run("dfa_conv2d_update", values), "dfa_conv2d_update", values)


@dtypes
def test_empty(backend: Backend, dtype: torch.dtype) -> None:
    check(backend, Shape(samples=0), dtype)
    check(backend, Shape(inputs=0), dtype)
    check(backend, Shape(outputs=0), dtype)


@on_emulator
@dtypes
@pytest.mark.parametrize(
    "shape",
    [Shape(samples=8, inputs=1, size=(28, 28), kernel=(5, 5)), Shape(samples=2, outputs=70, size=(19, 18))],
    ids=str,
)
def test_parts_of_a_long_sum(shape: Shape, dtype: torch.dtype) -> None:
    """They are added in a second launch, with the same bits in every order of the threads."""
    values = difference(shape, dtype)
    for multiprocessors, launches in ((ONE_PART, 1), (MANY_PARTS, 2)):
        bits = set()
        for schedule in (1, 2, 3):
            device = emulator.device(emulator.kernels(), schedule, multiprocessors=multiprocessors)
            results = emulator.run("pepita_conv2d_update", values, device)
            check_results(results, "pepita_conv2d_update", values)
            assert device.launches == launches
            bits.add(b"".join(emulator.bits(result).numpy().tobytes() for result in results))
        assert len(bits) == 1


@on_emulator
def test_tf32() -> None:
    """Operands are rounded to 10 bits after the point, differences after they are formed; biases are not."""
    shape = Shape(inputs=4, outputs=6, size=(9, 9), padding=(1, 1))
    h, h_mod, x, *convolution = difference(shape, torch.float32)
    device = emulator.device(emulator.kernels(), tf32_of_convolutions=True)
    weight, bias = emulator.run("pepita_conv2d_update", (h, h_mod, x, *convolution), device)
    scale = 1 / (h.numel() / h.shape[1])
    values = (to_tf32(h - h_mod), to_tf32(x), *convolution, scale, True)
    of_rounded, _ = expected("conv2d_update", values)
    assert_as_accurate(weight, of_rounded)
    unrounded, of_bias = expected("pepita_conv2d_update", (h, h_mod, x, *convolution))
    assert (weight - unrounded.truth).abs().max() > 1e-5, "the operands were not rounded"
    assert_as_accurate(bias, of_bias)


def to_tf32(tensor: Tensor) -> Tensor:
    """The nearest TF32 numbers, ties away from zero."""
    return ((tensor.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


SETTINGS = Settings(0.1, 0.01, 0.9, 0.99, 1e-3, 1 - 0.9**3, 1 - 0.99**3).as_tensor()


def sink(kind: int, target: Tensor, states: list[Tensor], update: Tensor) -> None:
    """What a cuda::Sink of a kind makes of its tensors: after the first two kinds come the optimizers."""
    if kind >= 2:
        reference.optimizer_steps_([target], states, [update], kind - 2, SETTINGS)
    else:
        target.copy_(target.to(update.dtype) + update if kind else update)


@on_emulator
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", range(8), ids=["write", "accumulate", *(descent.name.lower() for descent in Descent)])
@pytest.mark.parametrize("samples", [0, 5])
def test_sink(samples: int, kind: int, dtype: torch.dtype) -> None:
    """Of a sum in one part, in several, and of nothing."""
    values = given(Shape(samples=samples, inputs=2, size=(12, 12)), dtype)
    states = Descent(kind - 2).states if kind >= 2 else 0
    shapes = [update.shape for update in run_reference("conv2d_update", values)]
    tensors = [
        [draw(shape, dtype, seed=5)] + [draw(shape, dtype, seed=6 + i).abs() for i in range(states)] for shape in shapes
    ]

    def plain(given: Sequence[Any]) -> tuple[Tensor, ...]:
        post, pre, *sinks = given
        wide = torch.promote_types(post.dtype, torch.float32)
        stepped = [[tensor.clone() for tensor in of_one] for of_one in sinks]
        updates = run_reference("conv2d_update", (post.to(wide), pre.to(wide), *values[2:]))
        for (target, *its_states), update in zip(stepped, updates, strict=True):
            sink(kind, target, its_states, update)
        return tuple(tensor for of_one in stepped for tensor in of_one)

    compared = expected_of(plain, plain, (*values[:2], *tensors))
    for multiprocessors in (ONE_PART, MANY_PARTS):
        actual = [[tensor.clone() for tensor in sinks] for sinks in tensors]
        device = emulator.device(emulator.kernels(), multiprocessors=multiprocessors)
        arguments = [kind, *values[:-1], SETTINGS, *actual]
        emulator.kernels().conv2d_step(device, *emulator.convert(arguments, emulator.array))
        assert device.launches == (2 if samples and multiprocessors == MANY_PARTS else 1)
        for one, each in zip((tensor for of_one in actual for tensor in of_one), compared, strict=True):
            assert_as_accurate(one, each)
