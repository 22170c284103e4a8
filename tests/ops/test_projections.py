"""Products of few classes by the CUDA kernels, under the emulator: tiles, layouts, layers in one launch, faults."""

from __future__ import annotations

from collections.abc import Sequence

import emulator
import pytest
import torch
from cases import DTYPES, LAYOUTS, Arguments, Draw, Options, Size, arguments, assert_results
from torch import Tensor

from fastalign.ops.activations import Activation

MISSING = emulator.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def check(op: str, values: Arguments) -> list[Tensor]:
    """The op's results, the same in every order of its threads and as accurate as plain PyTorch."""
    launch = emulator.launcher(op)
    assert launch is not None
    result = launch(*values)
    results = [result] if isinstance(result, Tensor) else result
    assert_results(results, op, values)
    return results


# Around the tile of 32 (16-bit elements: 64) samples and 128 (float64: 64) units, and its parts of 32 classes; primes;
# units whose rows take vectors, and units whose rows do not.
@dtypes
@pytest.mark.parametrize(
    ("samples", "classes", "units"),
    [
        (1, 1, 1),
        (31, 1, 128),
        (32, 31, 129),
        (33, 32, 127),
        (63, 33, 64),
        (64, 10, 65),
        (65, 100, 136),
        (3, 64, 264),
        (2, 300, 40),
        (67, 101, 131),
    ],
)
def test_tiles(samples: int, classes: int, units: int, dtype: torch.dtype) -> None:
    check("feedback_term", arguments("feedback_term", dtype, Size(samples, classes, units)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, dtype: torch.dtype) -> None:
    """Of the operand, the signal and the matrix each alone, and of a map."""
    contiguous = arguments("feedback_term", dtype, Size(9, 10, 48))
    for place in range(3):
        values = list(contiguous)
        values[place] = LAYOUTS[layout](values[place])
        check("feedback_term", tuple(values))
    signal, feedback, kept, *rest = contiguous
    check("feedback_term", (signal, feedback, LAYOUTS[layout](kept.view(9, 3, 2, 8)), *rest))


def test_all_layers_go_in_one_launch() -> None:
    """Of any widths, aligned or not, maps among them; a hundred of them too."""
    draw = Draw(torch.float32)
    signal, widths = draw(33, 10), [1, 784, 16, 0, 129, 60, *[8] * 94]
    kept = [draw(33, width) for width in widths]
    kept[5] = LAYOUTS["channels_last"](draw(33, 5, 4, 3))
    kept[1] = LAYOUTS["misaligned"](kept[1])
    values = (signal, [draw(width, 10) for width in widths], kept, Activation.TANH, False)
    device = emulator.device(emulator.kernels())
    together = emulator.run("feedback_terms", values, device)
    assert (device.launches, device.products) == (1, 0)
    for delta, feedback, k in zip(together, values[1], kept, strict=True):
        apart = emulator.run("feedback_term", (signal, feedback, k, *values[3:], 0.0, None), device)
        assert torch.equal(emulator.bits(delta), emulator.bits(apart))


def launches(op: str, values: Arguments) -> int:
    device = emulator.device(emulator.kernels())
    emulator.run(op, values, device)
    return int(device.launches)


def test_nothing_is_launched_for_empty_results() -> None:
    for size in (Size(samples=0), Size(units=0, inputs=0)):
        for op in ("feedback_term", "modulate_input", "activation_forward", "activation_backward"):
            assert launches(op, arguments(op, torch.float32, size)) == 0
    assert launches("feedback_terms", (torch.ones(3, 2), [], [], Activation.TANH, False)) == 0
    window = ([2, 2], [2, 2], [0, 0], [1, 1], False)
    assert launches("max_pool2d_difference", (torch.ones(0, 3, 4, 4), torch.ones(0, 3, 4, 4), *window)) == 0


def test_float16_overflows_where_plain_pytorch_does() -> None:
    draw = Draw(torch.float16)
    signal, feedback = draw(5, 10, scale=100), draw(48, 10, scale=100)
    kept = draw(5, 48)
    (delta,) = check("feedback_term", (signal, feedback, kept, Activation.IDENTITY, False, 0.0, None))
    assert delta.isinf().any()
    assert delta.isfinite().any()


@dtypes
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_reaches_its_row_or_column_alone(value: float, dtype: torch.dtype) -> None:
    values = arguments("feedback_term", dtype, Size(9, 33, 24), Options(Activation.IDENTITY))
    for tensor, place in ((0, (3, 32)), (1, (5, 0)), (2, (7, 23))):
        changed = [v.clone() if isinstance(v, Tensor) else v for v in values]
        changed[tensor][place] = value
        check("feedback_term", tuple(changed))


@dtypes
@pytest.mark.parametrize("count", [1, 7, 8, 9, 2047, 2048, 2049])
def test_elementwise(count: int, dtype: torch.dtype) -> None:
    """Whole vectors, and what is left of the last one, which dropout counts on."""
    tail = (Activation.TANH, 0.5, torch.tensor([3]))
    for layout in ("contiguous", "misaligned"):
        check("activation_forward", (Draw(dtype, layout)(count), *tail))


@dtypes
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 5), (2, 3, 5, 7)])
def test_elementwise_of_any_strides(shape: Sequence[int], dtype: torch.dtype) -> None:
    draw = Draw(dtype)
    a, delta = draw(*shape), draw(*shape)
    tail = (Activation.GELU, 0.5, torch.tensor([3]))
    for layout in LAYOUTS.values():
        check("activation_difference", (layout(a), delta, *tail))
        check("activation_difference", (a, layout(delta), *tail))


@dtypes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pooling_of_any_strides(layout: str, dtype: torch.dtype) -> None:
    draw = Draw(dtype, layout)
    window = ([3, 2], [2, 3], [1, 1], [1, 2], True)
    check("max_pool2d_difference", (draw(3, 5, 9, 8), draw(3, 5, 9, 8, scale=0.1), *window))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pattern", "number", "replacement"),
    [
        ("barrier", r"__syncthreads\(\);", 2, ""),
        ("bound", r" \|\| column >= columns_left", 1, ""),
        ("alignment", r"\.vectors = takes_vectors<T>\(p\.epilogue\)", 0, ".vectors = true"),
        ("sign", r"to\[i\]\[j\] \+=", 0, "to[i][j] -="),
    ],
)
def test_fault_in_the_kernel_is_caught(name: str, pattern: str, number: int, replacement: str) -> None:
    source = emulator.CSRC / "cuda" / "kernels" / "projection.cu"
    faulty = emulator.with_fault(f"projection_{name}", source, pattern, replacement, number)
    values = [
        arguments("feedback_term", torch.float32, Size(samples=37, classes=67, units=units), layout=layout)
        for units, layout in ((132, "contiguous"), (48, "misaligned"))
    ]

    def check_all(schedule: int) -> None:
        for one in values:
            actual = emulator.run("feedback_term", one, emulator.device(faulty, schedule), faulty)
            assert_results(actual, "feedback_term", one)

    for schedule in emulator.SCHEDULES:
        with pytest.raises((AssertionError, RuntimeError)):
            check_all(schedule)
