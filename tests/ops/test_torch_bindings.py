"""The CUDA ops as torch calls them, on CPU tensors: their bindings in C++ over the kernels under the emulator."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import shlex
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import emulator
import pytest
import torch
from cases import (
    CASES,
    DTYPES,
    LAYOUTS,
    SEED,
    WITH_DROPOUT,
    Arguments,
    Draw,
    Options,
    Size,
    arguments,
    assert_results,
    call,
    run_reference,
)
from torch import Tensor

from fastalign.ops import native
from fastalign.ops.activations import Activation
from fastalign.ops.descent import Descent
from fastalign.ops.schemas import SCHEMAS

NAMESPACE = "fastalign_emulated"
ASKS_CUDA = ("device.cpp", "library.cpp", "products.cpp")
SMALL = Size(samples=5, classes=3, units=7, inputs=4)

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


class Bindings:
    """The library of the bindings."""

    def __init__(self) -> None:
        emulator.kernels()
        self._ops = torch.library.Library(NAMESPACE, "DEF")
        for name, schema in SCHEMAS.items():
            self._ops.define(name + schema)
        path = build()
        torch.ops.load_library(str(path))
        self.library = ctypes.PyDLL(str(path))
        native._define_references()

    def has(self, op: str) -> bool:
        return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{op}", "CPU")

    def run(self, op: str, values: Sequence[Any]) -> tuple[tuple[Tensor, ...], int]:
        """The results, and how many kernels were launched for them."""
        if not self.has(op):
            pytest.skip("this op has no CUDA kernel")
        before = self.library.launches()
        results = call(getattr(getattr(torch.ops, NAMESPACE), op), op, values)
        return results, self.library.launches() - before


def build() -> Path:
    """The bindings and the emulated device, linked with the emulated kernels; only what changed is compiled again."""
    torch_folder = Path(torch.__file__).parent
    includes = [f"-isystem{torch_folder / 'include'}", f"-isystem{emulator.cuda_headers()}"]
    includes += [f"-I{path}" for path in (emulator.CSRC / "emulator" / "include", emulator.CSRC)]
    includes.append(f"-isystem{sysconfig.get_path('include')}")
    sources = [path for path in (emulator.CSRC / "cuda" / "torch").glob("*.cpp") if path.name not in ASKS_CUDA]
    sources.append(Path(__file__).parent / "emulated" / "torch" / "device.cpp")
    objects = {path: f"torch.{path.name}.o" for path in sorted(sources)}
    flags = f"{emulator.USUAL} -fvisibility=hidden -DTORCH_TARGET_VERSION=0x020b000000000000 {shlex.join(includes)}"
    libraries = f"libemulated.so libemulator.so -L{torch_folder / 'lib'} -ltorch_cpu"
    lines = [
        "rule binding",
        f"  command = g++ {flags} -Wno-unused-parameter -O0 -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "rule library",
        f"  command = g++ -shared -Wl,-rpath,'$$ORIGIN' $in {libraries} -o $out",
        *(f"build {built}: binding {path}" for path, built in objects.items()),
        f"build torch_bindings.so: library {' '.join(objects.values())}",
    ]
    emulator.run_ninja("torch_bindings", lines)
    return emulator.FOLDER / "torch_bindings.so"


@functools.cache
def loaded() -> Bindings:
    return Bindings()


@pytest.fixture
def bindings() -> Iterator[Bindings]:
    why = emulator.missing()
    if why is not None:
        pytest.skip(why)
    yield loaded()
    loaded().library.set_usable(True)
    loaded().library.set_force(0)


def check(bindings: Bindings, op: str, values: Arguments, native: bool = True) -> None:
    """The results are as accurate as they must be, and own kernels have computed them, or not."""
    results, launches = bindings.run(op, values)
    assert_results(results, op, values)
    assert (launches > 0) == native


@dtypes
@pytest.mark.parametrize("op", CASES)
def test_numbers(bindings: Bindings, op: str, dtype: torch.dtype) -> None:
    check(bindings, op, arguments(op, dtype, SMALL))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", CASES)
def test_layout(bindings: Bindings, op: str, layout: str) -> None:
    check(bindings, op, arguments(op, torch.float32, SMALL, layout=layout))


@pytest.mark.parametrize("op", WITH_DROPOUT)
def test_dropout(bindings: Bindings, op: str) -> None:
    check(bindings, op, arguments(op, torch.float32, SMALL, Options(dropout=0.4)))


@pytest.mark.parametrize("force", [1, 2])
@pytest.mark.parametrize("op", CASES)
def test_products_of_either(bindings: Bindings, op: str, force: int) -> None:
    """By own kernels alone, or by torch's product where that serves."""
    bindings.library.set_force(force)
    values = arguments(op, torch.float32, Size(samples=70, classes=66, units=68, inputs=65))
    results, _ = bindings.run(op, values)
    assert_results(results, op, values)


@pytest.mark.parametrize("op", CASES)
def test_empty_batch(bindings: Bindings, op: str) -> None:
    values = arguments(op, torch.float32, Size(samples=0))
    results, _ = bindings.run(op, values)
    for actual, truth in zip(results, run_reference(op, values), strict=True):
        assert torch.allclose(actual, truth, equal_nan=True)


@pytest.mark.parametrize("op", CASES)
def test_a_device_that_cannot_runs_the_reference(bindings: Bindings, op: str) -> None:
    bindings.library.set_usable(False)
    check(bindings, op, arguments(op, torch.float32, SMALL), native=False)


def changed(values: Arguments, change: Callable[[Tensor], Tensor]) -> Arguments:
    """The arguments with another tensor, or list of tensors, in the first place."""
    first, *others = values
    return ([change(tensor) for tensor in first] if isinstance(first, list) else change(first), *others)


@pytest.mark.parametrize("op", [op for op in CASES if op not in ("activation_forward", "cross_entropy")])
def test_a_mixture_of_dtypes_runs_the_reference(bindings: Bindings, op: str) -> None:
    """Which computes it or refuses it, as torch does."""
    values = changed(arguments(op, torch.float32, SMALL), Tensor.double)
    before = bindings.library.launches()
    with contextlib.suppress(RuntimeError):
        bindings.run(op, values)
    assert bindings.library.launches() == before


@pytest.mark.parametrize("op", [op for op in CASES if op != "activation_forward"])
def test_shapes_that_do_not_go_together_are_refused(bindings: Bindings, op: str) -> None:
    values = changed(arguments(op, torch.float32, SMALL), lambda tensor: tensor.repeat(2, *tensor.shape[1:-1], 2))
    before = bindings.library.launches()
    with pytest.raises((RuntimeError, ValueError)):
        bindings.run(op, values)
    assert bindings.library.launches() == before


@pytest.mark.parametrize(
    "window",
    [([2], [1], [0], [1], False), ([2, 2], [1, 1], [1, 1], [3, 3], False)],
    ids=["not of two numbers", "steps over the map"],
)
def test_windows_that_do_not_fit_run_no_kernel(bindings: Bindings, window: Arguments) -> None:
    h = torch.zeros(1, 1, 2, 2)
    before = bindings.library.launches()
    with contextlib.suppress(RuntimeError):
        bindings.run("max_pool2d_difference", (h, h, *window))
    assert bindings.library.launches() == before


def test_labels_that_are_no_int64_run_the_reference(bindings: Bindings) -> None:
    outputs, labels, mean = arguments("cross_entropy", torch.float32, SMALL)
    before = bindings.library.launches()
    with contextlib.suppress(RuntimeError):
        bindings.run("cross_entropy", (outputs, labels.int(), mean))
    assert bindings.library.launches() == before


def test_a_batch_of_sequences_is_one_of_vectors(bindings: Bindings) -> None:
    """(N, T, H) as the reference takes it, of any strides."""
    signal, feedback, kept, *rest = arguments("feedback_term", torch.float32, Size(samples=3, units=20))
    sequences = kept.view(3, 4, 5)
    for values in (sequences, sequences.transpose(1, 2).contiguous().transpose(1, 2)):
        check(bindings, "feedback_term", (signal, feedback, values, *rest))


def test_a_signal_of_another_shape_is_reshaped(bindings: Bindings) -> None:
    signal, kept, *rest = arguments("activation_backward", torch.float32, Size(samples=3, units=24))
    check(bindings, "activation_backward", (signal, kept.view(3, 2, 3, 4), *rest))
    check(bindings, "activation_backward", (signal.T.contiguous().T, kept.view(3, 2, 3, 4), *rest))


def test_more_dimensions_than_a_view_has_run_the_reference(bindings: Bindings) -> None:
    a, *rest = arguments("activation_forward", torch.float32, Size(samples=3, units=24))
    check(bindings, "activation_forward", (a.view(3, 2, 2, 2, 3), *rest), native=False)
    check(bindings, "activation_forward", (a[0, 0], *rest), native=False)


def test_steps_of_what_is_not_contiguous_run_the_reference(bindings: Bindings) -> None:
    """Of parameters and states; so do settings that are not float64."""
    for op, places in (("linear_steps_", (0, 2)), ("optimizer_steps_", (0, 1))):
        values = arguments(op, torch.float32, SMALL)
        check(bindings, op, (*values[:-1], values[-1].float()), native=False)
        for place in places:
            laid_out = [LAYOUTS["transposed"](tensor) for tensor in values[place]]
            check(bindings, op, (*values[:place], laid_out, *values[place + 1 :]), native=False)


def test_steps_without_biases(bindings: Bindings) -> None:
    weight, _, weight_state, _, *rest = arguments("linear_steps_", torch.float32, SMALL)
    check(bindings, "linear_steps_", (weight, [], weight_state, [], *rest))


@pytest.mark.parametrize("descent", Descent, ids=lambda descent: descent.name.lower())
@pytest.mark.parametrize("op", ["linear_steps_", "optimizer_steps_"])
def test_steps_of_every_optimizer(bindings: Bindings, op: str, descent: Descent) -> None:
    check(bindings, op, arguments(op, torch.float32, SMALL, Options(descent=descent)))


def test_steps_by_gradients_of_another_dtype(bindings: Bindings) -> None:
    """Of the sums' dtype by the kernel, of others by the reference."""
    parameter, state, gradient, *rest = arguments("optimizer_steps_", torch.bfloat16, SMALL)
    check(bindings, "optimizer_steps_", (parameter, state, [g.float() for g in gradient], *rest))
    check(bindings, "optimizer_steps_", (parameter, state, [g.double() for g in gradient], *rest), native=False)


@pytest.mark.parametrize("op", CASES)
def test_precision_is_asked_of_python_at_each_product_of_float32(bindings: Bindings, op: str) -> None:
    asked: list[str] = []
    bindings.library.ask_for_precision(ctypes.py_object(asked.append))
    try:
        bindings.run(op, arguments(op, torch.float32, SMALL))
        without = any(name in op for name in ("activation_", "pool", "optimizer_", "cross_entropy"))
        expected = [] if without else ["matmul", "conv"] if "conv2d" in op else ["matmul"]
        assert asked == expected
        bindings.run(op, arguments(op, torch.bfloat16, SMALL))
        assert asked == expected
    finally:
        bindings.library.ask_for_precision(ctypes.py_object(lambda operation: False))


def test_a_precision_that_cannot_be_told_is_an_error(bindings: Bindings) -> None:
    bindings.library.ask_for_precision(ctypes.py_object(lambda operation: 1 / 0))
    try:
        with pytest.raises(RuntimeError, match="precision"):
            bindings.run("linear_forward", arguments("linear_forward", torch.float32, SMALL))
    finally:
        bindings.library.ask_for_precision(ctypes.py_object(lambda operation: False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("op", ["feedback_terms", "linear_updates", "linear_steps_", "optimizer_steps_"])
def test_launches_do_not_depend_on_the_number_of_layers(bindings: Bindings, op: str, dtype: torch.dtype) -> None:
    """So that those of a backward pass of direct feedback do not depend on depth."""
    values = arguments(op, dtype, Size(samples=64, units=20, inputs=70))

    def launches(times: int) -> int:
        return bindings.run(op, [value * times if isinstance(value, list) else value for value in values])[1]

    assert launches(1) == launches(2) == launches(20) <= 2


@pytest.mark.parametrize("descent", [Descent.SGD, Descent.ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("depth", [3, 100, pytest.param(250, marks=pytest.mark.slow)])
def test_a_backward_pass_of_direct_feedback_is_two_launches_at_any_depth(
    bindings: Bindings, depth: int, descent: Descent
) -> None:
    """No two layers are of one width, so that as little is alike as can be."""
    draw, widths = Draw(torch.float32), [3 + layer for layer in range(depth + 1)]
    layers = list(zip(widths[1:], widths, strict=False))
    kept = [draw(2, units) for units, _ in layers]
    feedback = [draw(units, 4) for units, _ in layers]
    deltas, projections = bindings.run("feedback_terms", (draw(2, 4), feedback, kept, Activation.TANH, False))
    steps = (
        [draw(*shape) for shape in layers],
        [draw(units) for units, _ in layers],
        [state for shape in layers for state in draw.states(descent, *shape)],
        [state for units, _ in layers for state in draw.states(descent, units)],
        list(deltas),
        [draw(2, inputs) for _, inputs in layers],
        [1.0] * depth,
        descent,
        Options().settings,
    )
    assert (projections, bindings.run("linear_steps_", steps)[1]) == (1, 1)
    parameters, gradients = [*steps[0], *steps[1]], [draw(*p.shape) for p in (*steps[0], *steps[1])]
    passes = (parameters, [*steps[2], *steps[3]], gradients, descent, Options().settings)
    assert bindings.run("optimizer_steps_", passes)[1] == 1


def test_no_kernel_has_a_fault(bindings: Bindings) -> None:
    for op in CASES:
        if bindings.has(op):
            bindings.run(op, arguments(op, torch.float32, SMALL))
            assert not bindings.library.has_fault()


def test_seed_must_be_one_number(bindings: Bindings) -> None:
    *values, seed = arguments("activation_forward", torch.float32, SMALL, Options(dropout=0.4))
    assert seed is SEED
    results, launches = bindings.run("activation_forward", (*values, None))
    assert launches == 0
    assert not (results[0] == 0).any()  # to the reference: no seed, no dropout
