"""Every op on every backend against the reference in float64: dtypes, activations, sizes, memory layouts, dropout."""

from __future__ import annotations

import pytest
import torch
from cases import (
    BACKENDS,
    CASES,
    DTYPES,
    LAYOUTS,
    WITH_ACTIVATION,
    WITH_DESCENT,
    WITH_DROPOUT,
    WITH_OUTPUT,
    Arguments,
    Backend,
    Draw,
    Options,
    Size,
    arguments,
    assert_results,
    expected,
    without_library,
)
from compare import assert_rounded_once

from fastalign.ops import reference
from fastalign.ops.activations import Activation
from fastalign.ops.descent import Descent
from fastalign.ops.schemas import kernels

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))

# Around the sizes of tiles (6 rows, 64 columns), tasks (64 rows), packed blocks (704 columns), units (16 elements),
# stretches (512 and 4096 elements) and the numbers of classes (64, 128 or 256) beyond which the library multiplies.
SIZES = [
    Size(samples=1, classes=1, units=1, inputs=1),
    Size(samples=2, classes=127, units=47, inputs=128),
    Size(samples=7, classes=128, units=48, inputs=129),
    Size(samples=31, classes=129, units=49, inputs=127),
    Size(samples=4, classes=256, units=65, inputs=257),
    Size(samples=6, classes=257, units=63, inputs=256),
    Size(samples=32, classes=3, units=239, inputs=2),
    Size(samples=33, classes=11, units=241, inputs=7),
    Size(samples=65, classes=2, units=97, inputs=193),
    Size(samples=5, classes=10, units=1021, inputs=13),
    Size(samples=0, classes=10, units=50, inputs=21),
    Size(samples=3, classes=0, units=5, inputs=0),
    Size(samples=3, classes=2, units=0, inputs=4),
]


def check(backend: Backend, op: str, values: Arguments) -> None:
    results = backend.run(op, values)
    assert all(actual.is_contiguous() for actual in results)
    assert_results(results, op, values)


@dtypes
@pytest.mark.parametrize("activation", Activation, ids=lambda a: a.name.lower())
@pytest.mark.parametrize("op", WITH_ACTIVATION)
def test_activation(backend: Backend, op: str, activation: Activation, dtype: torch.dtype) -> None:
    check(backend, op, arguments(op, dtype, options=Options(activation)))


@dtypes
@pytest.mark.parametrize(
    "activation", [a for a in Activation if a.derivative_follows_from_output], ids=lambda a: a.name.lower()
)
@pytest.mark.parametrize("op", WITH_OUTPUT)
def test_given_output(backend: Backend, op: str, activation: Activation, dtype: torch.dtype) -> None:
    check(backend, op, arguments(op, dtype, options=Options(activation, given_output=True)))


@dtypes
@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s.samples}x{s.classes}x{s.units}x{s.inputs}")
@pytest.mark.parametrize("op", CASES)
def test_size(backend: Backend, op: str, size: Size, dtype: torch.dtype) -> None:
    check(backend, op, arguments(op, dtype, size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("classes", [10, 260])
@pytest.mark.parametrize("op", CASES)
def test_layout(backend: Backend, op: str, classes: int, layout: str, dtype: torch.dtype) -> None:
    check(backend, op, arguments(op, dtype, Size(samples=9, classes=classes, inputs=classes + 3), layout=layout))


@dtypes
@pytest.mark.parametrize("dropout", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("op", WITH_DROPOUT)
def test_dropout(backend: Backend, op: str, dropout: float, dtype: torch.dtype) -> None:
    check(backend, op, arguments(op, dtype, Size(units=51), Options(dropout=dropout)))
    if op in WITH_OUTPUT and dropout < 1:
        check(backend, op, arguments(op, dtype, Size(units=51), Options(given_output=True, dropout=dropout)))


@dtypes
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("descent", Descent, ids=lambda descent: descent.name.lower())
@pytest.mark.parametrize("op", WITH_DESCENT)
def test_descent(backend: Backend, op: str, descent: Descent, weight_decay: float, dtype: torch.dtype) -> None:
    """Of few samples, and of so many that the library multiplies."""
    options = Options(descent=descent, weight_decay=weight_decay)
    for samples in (9, 260):
        check(backend, op, arguments(op, dtype, Size(samples=samples), options))


@dtypes
@pytest.mark.parametrize("descent", Descent, ids=lambda descent: descent.name.lower())
def test_steps_of_layers_without_bias(backend: Backend, descent: Descent, dtype: torch.dtype) -> None:
    for op in ("linear_steps_", "feedback_steps_"):
        weight, _, state, _, *rest = arguments(op, dtype, options=Options(descent=descent))
        check(backend, op, (weight, [], state, [], *rest))


@pytest.mark.parametrize("op", WITH_DESCENT)
def test_steps_of_parameters_in_other_strides(op: str) -> None:
    """Parameters, biases and states change in place, wherever their elements lie."""

    def with_gaps(tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack([tensor, tensor], dim=-1)[..., 0]

    values = arguments(op, torch.float32, options=Options(descent=Descent.ADAM))
    changing = 2 if op == "optimizer_steps_" else 4
    rows = [[tensor.clone() for tensor in tensors] for tensors in values[:changing]]
    gaps = [[with_gaps(tensor) for tensor in tensors] for tensors in values[:changing]]
    for places in (rows, gaps):
        getattr(kernels, op)(*places, *values[changing:])
    torch.testing.assert_close(gaps, rows, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("descent", Descent, ids=lambda descent: descent.name.lower())
def test_steps_down_a_wider_gradient(backend: Backend, descent: Descent, dtype: torch.dtype) -> None:
    values = list(arguments("optimizer_steps_", dtype, options=Options(descent=descent)))
    values[2] = [gradient.float() + 1e-3 for gradient in values[2]]
    check(backend, "optimizer_steps_", tuple(values))


@dtypes
@pytest.mark.parametrize("classes", [10, 260])
def test_feature_maps(backend: Backend, classes: int, dtype: torch.dtype) -> None:
    """What is kept of a convolution may be a map, in any layout; its units count channels, then rows, then columns."""
    size = Size(samples=5, classes=classes, units=3 * 4 * 7)
    signal, feedback, kept, *rest = arguments("feedback_term", dtype, size, Options(dropout=0.5))
    maps = kept.view(5, 3, 4, 7).to(memory_format=torch.channels_last)
    (delta,) = backend.run("feedback_term", (signal, feedback, maps, *rest))
    (flat,) = backend.run("feedback_term", (signal, feedback, kept, *rest))
    assert torch.equal(delta, flat.view_as(delta))
    assert delta.is_contiguous()


@dtypes
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("inputs", [10, 260])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_forward(backend: Backend, bias: bool, inputs: int, keep: bool, dtype: torch.dtype) -> None:
    x, weight, b, *rest = arguments("linear_forward", dtype, Size(inputs=inputs))
    values = (x, weight, b if bias else None, *rest[:-1], keep)
    check(backend, "linear_forward", values)


@dtypes
@pytest.mark.parametrize("op", ["linear_forward", "linear_difference"])
@pytest.mark.parametrize("inputs", [1, 63, 64, 127, 130])
@pytest.mark.parametrize(("samples", "units"), [(3, 90), (32, 100), (65, 23), (130, 48)])
def test_edges_of_a_batch(op: str, samples: int, units: int, inputs: int, dtype: torch.dtype) -> None:
    """The sizes lie around blocks of samples and units, and parts of long sums, at AVX2 of 128 terms at most."""
    size = Size(samples=samples, units=units, inputs=inputs, classes=inputs)
    check(BACKENDS["cpu"], op, arguments(op, dtype, size))


@dtypes
@pytest.mark.parametrize("op", ["linear_update", "conv2d_update"])
def test_update_without_bias(backend: Backend, op: str, dtype: torch.dtype) -> None:
    values = (*arguments(op, dtype)[:-1], False)
    check(backend, op, values)
    assert backend.run(op, values)[1].numel() == 0


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "part"])
@pytest.mark.parametrize(
    "op", ["feedback_term", "linear_forward", "linear_update", "linear_steps_", "dfa_linear_update"]
)
@pytest.mark.parametrize("samples", [67, 130])
@pytest.mark.parametrize("terms", [300, 301])
@pytest.mark.parametrize("cpu", [BACKENDS["cpu"]], ids=["cpu"])
def test_large_product_of_halves(cpu: Backend, terms: int, samples: int, op: str, layout: str) -> None:
    """On a CPU that multiplies bfloat16, large products of it are not widened: by the matrix unit, and the library."""
    size = Size(samples=samples, classes=terms, units=257, inputs=terms)
    check(cpu, op, arguments(op, torch.bfloat16, size, layout=layout))


@pytest.mark.parametrize("inputs", [31, 64, 1041])
@pytest.mark.parametrize("units", [15, 33, 64])
@pytest.mark.parametrize("samples", [16, 33, 80, 81, 97, 128])
@pytest.mark.parametrize("op", ["linear_forward", "linear_difference", "linear_update", "linear_steps_"])
def test_tiles_of_halves(op: str, samples: int, units: int, inputs: int) -> None:
    """Around the matrix unit's tiles of 16 rows and 32 terms, and the runs of its kernels."""
    values = arguments(op, torch.bfloat16, Size(samples=samples, units=units, inputs=inputs))
    check(BACKENDS["cpu"], op, values)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("descent", Descent, ids=lambda descent: descent.name.lower())
@pytest.mark.parametrize("op", ["linear_steps_", "feedback_steps_"])
def test_descent_by_large_products_of_halves(op: str, descent: Descent, weight_decay: float) -> None:
    """δ is formed in few parts, and in several; the rounding of velocities cannot hide the decay."""
    options = Options(descent=descent, weight_decay=weight_decay)
    for size in (Size(samples=67, units=257, inputs=300), Size(samples=600, units=800, inputs=60)):
        check(BACKENDS["cpu"], op, arguments(op, torch.bfloat16, size, options))


@dtypes
def test_transposed_feedback(backend: Backend, dtype: torch.dtype) -> None:
    """BP's feedback is the transposed weight of the layer above, as a view."""
    for classes in (10, 200, 300):
        signal, feedback, *rest = arguments("feedback_term", dtype, Size(classes=classes, units=300))
        check(backend, "feedback_term", (signal, feedback.T.contiguous().T, *rest))


@pytest.mark.parametrize(
    ("convolution", "pre", "post"),
    [
        (([5, 5], [1, 1], [0, 0], [1, 1], 1), (1, 28, 28), (32, 24, 24)),
        (([5, 5], [1, 1], [0, 0], [1, 1], 1), (3, 32, 32), (32, 28, 28)),
        (([5, 5], [1, 1], [2, 2], [1, 1], 1), (7, 9, 9), (17, 9, 9)),
        (([3, 3], [1, 1], [1, 1], [1, 1], 1), (1, 1, 1), (1, 1, 1)),
        (([1, 1], [1, 1], [0, 0], [1, 1], 1), (5, 3, 2), (4, 3, 2)),
        (([3, 1], [1, 2], [0, 1], [2, 1], 1), (2, 9, 8), (33, 5, 5)),
        (([3, 3], [2, 2], [1, 1], [1, 1], 4), (4, 11, 10), (8, 6, 5)),
        (([2, 7], [1, 1], [0, 3], [1, 1], 1), (3, 6, 37), (19, 5, 37)),
        (([3, 1], [1, 1], [0, 0], [1, 99999], 1), (1, 6, 5), (4, 4, 5)),  # a dilation between no taps
        (([3, 2], [1, 1], [2, 1], [2, 3], 1), (2, 9, 8), (6, 9, 7)),
        (([3, 3], [1, 1], [1, 1], [1, 1], 2), (4, 7, 6), (6, 7, 6)),
        (([3, 3], [2, 1], [1, 1], [1, 1], 1), (2, 7, 6), (6, 4, 6)),
        (([3, 3], [1, 2], [1, 1], [1, 1], 1), (2, 7, 6), (6, 7, 3)),
    ],
    ids=str,
)
@dtypes
@pytest.mark.parametrize("samples", [0, 1, 19])
@without_library
def test_convolution(
    backend: Backend,
    samples: int,
    convolution: Arguments,
    pre: tuple[int, ...],
    post: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    generator = torch.Generator().manual_seed(0)
    h, h_mod, x = (torch.randn(samples, *shape, generator=generator).to(dtype) for shape in (post, post, pre))
    check(backend, "conv2d_update", (h, x, *convolution, 0.25, True))
    check(backend, "pepita_conv2d_update", (h, h_mod, x, *convolution))


def thirds_of_zero(draw: Draw, *shape: int) -> torch.Tensor:
    """Three parts along the first dimension that add up to zero, in few digits: what a sum loses is left of it."""
    halves = torch.randint(-64, 65, (2, *shape), generator=draw.generator) / 32
    return torch.cat((*halves, -halves.sum(0))).to(draw.dtype)


def assert_vanishes(total: torch.Tensor, of_part: torch.Tensor) -> None:
    left, most = total.abs().max().item(), 1e-5 * of_part.abs().max().item()
    assert left <= most, f"sum {left:.3g}, expected at most {most:.3g}"


halves = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


@halves
@pytest.mark.parametrize("op", ["feedback_term", "linear_forward", "linear_update", "conv2d_update"])
def test_sums_of_halves_are_not_kept_in_halves(backend: Backend, op: str, dtype: torch.dtype) -> None:
    """A sum of three parts is zero, up to what float32 loses of one: halves would lose a thousand times as much."""
    draw, part = Draw(dtype), 32
    if op == "conv2d_update":
        maps, x = thirds_of_zero(draw, 1, 4, 6, 7), draw(1, 2, 6, 7).repeat(3, 1, 1, 1)
        rest: Arguments = ([3, 3], [1, 1], [1, 1], [1, 1], 1, 1.0, True)
        whole, of_part = (maps, x, *rest), (maps[:1], x[:1], *rest)
    elif op == "linear_update":
        post, pre = thirds_of_zero(draw, part, 40), draw(part, 50).repeat(3, 1)
        whole, of_part = (post, pre, 1.0, True), (post[:part], pre[:part], 1.0, True)
    else:
        signal, matrix = thirds_of_zero(draw, part, 40).T.contiguous(), draw(50, part).repeat(1, 3)
        rest = (None, Activation.IDENTITY, 0.0, None, False)
        if op == "feedback_term":
            rest = (draw(40, 50), Activation.IDENTITY, False, 0.0, None)
        whole, of_part = (signal, matrix, *rest), (signal[:, :part], matrix[:, :part], *rest)
    for total, one in zip(backend.run(op, whole), backend.run(op, of_part), strict=True):
        if total.numel() > 0:
            assert_vanishes(total, one)


def test_a_long_sum_of_a_bias_keeps_what_its_additions_lose(backend: Backend) -> None:
    """A thousand terms, each too small beside the first to change a sum in float32."""
    post = torch.full((1152, 3), 1e-8)
    post[0] = 1
    _, bias = backend.run("linear_update", (post, torch.ones(1152, 2), 1.0, True))
    torch.testing.assert_close(bias, torch.full((3,), 1 + 1151e-8), rtol=3e-7, atol=0)


@halves
@pytest.mark.parametrize("op", ["feedback_term", "linear_forward", "linear_update", "dfa_linear_update"])
def test_one_term_is_rounded_once(backend: Backend, op: str, dtype: torch.dtype) -> None:
    """To the nearest: each element is wrong by at most half a unit in its last place."""
    if backend.name == "emulated-library":
        pytest.skip("the library's product is rounded, and what is made of it once more")
    size = Size(samples=1 if op.endswith("update") else 9, classes=1, units=1000, inputs=1)
    values = list(arguments(op, dtype, size))
    if op == "linear_forward":
        values[2:4] = None, Activation.IDENTITY
    if op == "dfa_linear_update":
        values[3] = torch.ones_like(values[3])
    for actual, each in zip(backend.run(op, tuple(values)), expected(op, values), strict=True):
        assert_rounded_once(actual, each.truth)


@halves
def test_delta_of_a_convolution_is_summed_unrounded(dtype: torch.dtype) -> None:
    """The CPU multiplies few such numbers itself, and rounds none in between."""
    draw = Draw(dtype)
    error, x = thirds_of_zero(draw, 1, 10), draw(1, 2, 6, 7).repeat(3, 1, 1, 1)
    values = (error, draw(4 * 6 * 7, 10), draw(3, 4, 6, 7), x)
    rest = (Activation.IDENTITY, False, [3, 3], [1, 1], [1, 1], [1, 1], 1)
    whole = BACKENDS["cpu"].run("dfa_conv2d_update", (*values, *rest))
    one = BACKENDS["cpu"].run("dfa_conv2d_update", (error[:1], values[1], values[2][:1], x[:1], *rest))
    for total, of_one in zip(whole, one, strict=True):
        assert_vanishes(total, of_one)


@dtypes
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@without_library
def test_convolution_of_what_is_no_number(backend: Backend, value: float, dtype: torch.dtype) -> None:
    """It reaches the taps that meet it and no other: not those at the other end of its row."""
    generator = torch.Generator().manual_seed(0)
    h, h_mod, x = (torch.randn(2, c, s, s, generator=generator).to(dtype) for c, s in ((3, 6), (3, 6), (1, 8)))
    for place in ((0, 0, 0, 0), (1, 0, 3, 0), (1, 0, 7, 7)):
        changed = x.clone()
        changed[place] = value
        check(backend, "pepita_conv2d_update", (h, h_mod, changed, [3, 3], [1, 1], [0, 0], [1, 1], 1))
    h[1, 2, 5, 5] = value
    check(backend, "conv2d_update", (h, x, [3, 3], [1, 1], [0, 0], [1, 1], 1, 0.5, True))


WINDOWS: list[Arguments] = [
    ([2, 2], [2, 2], [0, 0], [1, 1], False),
    ([3, 3], [2, 2], [0, 0], [1, 1], False),
    ([3, 3], [2, 2], [1, 1], [1, 1], True),
    ([3, 2], [1, 3], [1, 0], [2, 1], False),
    ([2, 2], [3, 3], [1, 1], [3, 3], True),
    ([3, 5], [1, 1], [1, 2], [1, 1], False),
    ([2, 2], [2, 2], [1, 1], [1, 3], False),
    ([1, 9], [2, 1], [0, 4], [1, 1], False),
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("size", [(11, 9), (5, 24), (7, 75)], ids=str)
@dtypes
@without_library
def test_pooling(backend: Backend, size: tuple[int, int], window: Arguments, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    h, delta = (torch.randn(3, 2, *size, generator=generator).to(dtype) for _ in range(2))
    check(backend, "max_pool2d_difference", (h, delta, *window))
    ties = torch.randint(0, 2, h.shape, generator=generator).to(dtype)
    check(backend, "max_pool2d_difference", (ties, 0.25 * delta, *window))
    ties[0, 0, 4, 4], ties[1, 1, 3, 3], delta[2, 0, 2, 2] = float("nan"), float("inf"), float("nan")
    check(backend, "max_pool2d_difference", (ties, delta, *window))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("size", [(11, 9), (5, 24), (7, 75)], ids=str)
@dtypes
@without_library
def test_pooling_and_back(backend: Backend, size: tuple[int, int], window: Arguments, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(3, 2, *size, generator=generator).to(dtype)
    ties = torch.randint(0, 2, h.shape, generator=generator).to(dtype)
    seed = torch.tensor([5])
    odd = ties.clone()
    odd[0, 0, 4, 4], odd[1, 1, :3, :3], odd[2, 0, 2, 2] = float("nan"), float("-inf"), float("inf")
    for values in (h, ties, odd):
        check(backend, "max_pool2d_forward", (values, *window))
        signal = torch.randn(reference.max_pool2d_forward(values, *window).shape, generator=generator).to(dtype)
        check(backend, "max_pool2d_backward", (signal, values, values, Activation.IDENTITY, True, 0.0, None, *window))
        a = torch.randn(h.shape, generator=generator).to(dtype)
        check(backend, "max_pool2d_backward", (signal, values, a, Activation.SILU, False, 0.5, seed, *window))


@pytest.mark.parametrize("size", [(8, 8), (15, 15), (70, 31), (71, 60), (3, 512), (2, 513)], ids=str)
@dtypes
@without_library
def test_pooling_by_bands(backend: Backend, size: tuple[int, int], dtype: torch.dtype) -> None:
    """Maps that follow each other, that gather in a band, that fill several, and that are too wide for one."""
    generator = torch.Generator().manual_seed(0)
    h, a, delta = (torch.randn(3, 4, *size, generator=generator).to(dtype) for _ in range(3))
    signal = torch.randn(3, 4, size[0] // 2, size[1] // 2, generator=generator).to(dtype)
    window, seed = WINDOWS[0], torch.tensor([5])
    check(backend, "max_pool2d_forward", (h, *window))
    check(backend, "max_pool2d_difference", (h, delta, *window))
    check(backend, "max_pool2d_backward", (signal, h, a, Activation.SILU, False, 0.5, seed, *window))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@without_library
def test_pooling_of_what_is_no_number(backend: Backend, value: float) -> None:
    """As in plain PyTorch, in h, in Δh or in both, among numbers or where a window has nothing else."""
    generator = torch.Generator().manual_seed(0)
    h, delta = (torch.randn(2, 2, 6, 70, generator=generator) for _ in range(2))
    for tensor, left in ((h, 0), (delta, 1)):
        for column in range(left, 24, 3):
            tensor[:, 0, column % 6, column] = value
        tensor[:, 1, :2, 30 + 4 * left : 36] = value
    for one, other in ((h, delta), (h, torch.ones_like(h)), (torch.ones_like(h), delta)):
        check(backend, "max_pool2d_difference", (one, other, [2, 2], [2, 2], [0, 0], [1, 1], False))
        check(backend, "max_pool2d_difference", (one, other, [3, 3], [1, 1], [1, 1], [1, 1], False))


@without_library
def test_pooling_of_a_map_smaller_than_the_window(backend: Backend) -> None:
    generator = torch.Generator().manual_seed(0)
    h, delta = (torch.randn(2, 3, 1, 2, generator=generator) for _ in range(2))
    check(backend, "max_pool2d_difference", (h, delta, [2, 3], [2, 3], [0, 1], [1, 1], True))


@without_library
def test_pooling_keeps_the_difference_exact(backend: Backend) -> None:
    """Where the maximum stays at its place the result is Δh, to the last bit."""
    h, delta = torch.tensor([[[[1000.0, 0], [0, 0]]]]), torch.tensor([[[[1e-6, 9], [9, 9]]]])
    (difference,) = backend.run("max_pool2d_difference", (h, delta, [2, 2], [2, 2], [0, 0], [1, 1], False))
    assert difference.item() == delta[0, 0, 0, 0].item()
