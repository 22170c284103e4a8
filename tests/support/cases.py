"""Arguments for every op, at any size, dtype and memory layout; and the backends that the ops run on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import emulator
import gpu
import pytest
import torch
from compare import Expected, assert_as_accurate
from rounding import modelled
from torch import Tensor

from fastalign.ops import native, reference
from fastalign.ops.activations import Activation
from fastalign.ops.descent import Descent, Settings
from fastalign.ops.schemas import SCHEMAS

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SEED = torch.tensor([0x123456789ABCDEF])

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Backend:
    """Where ops run: `missing` says why this machine cannot, None where it can."""

    name: str
    missing: str | None
    kernel: Callable[[str], Callable[..., Any] | None]

    def run(self, op: str, arguments: Arguments) -> tuple[Tensor, ...]:
        kernel = self.kernel(op)
        if kernel is None:
            pytest.skip(f"the {self.name} backend has no kernel for this op")
        return call(kernel, op, arguments)


BACKENDS = {
    "cpu": Backend("cpu", None, lambda op: getattr(torch.ops.fastalign, op)),
    "emulated": Backend("emulated", emulator.missing(), emulator.launcher),
    "emulated-library": Backend(
        "emulated-library", emulator.missing(), functools.partial(emulator.launcher, force="library")
    ),
    "cuda": Backend("cuda", gpu.missing(), gpu.kernel),
}

# A GPU's only where there is one, or where it is asked for.
TESTED = [name for name in BACKENDS if name != "cuda" or gpu.missing() is None or gpu.REQUIRED]

# Tests of what the library has no part in.
without_library = pytest.mark.parametrize("backend", [b for b in TESTED if b != "emulated-library"], indirect=True)

needs_native = "" if native.module is not None else str(native.why_not)


@dataclass(frozen=True)
class Size:
    """N samples, C classes, H units, K inputs."""

    samples: int = 33
    classes: int = 10
    units: int = 50
    inputs: int = 21


@dataclass(frozen=True)
class Options:
    """What the ops take besides tensors."""

    activation: Activation = Activation.TANH
    given_output: bool = False
    dropout: float = 0.0
    descent: Descent = Descent.ADAM
    weight_decay: float = 0.01

    @property
    def settings(self) -> Tensor:
        """Those of step 3."""
        return Settings(0.01, self.weight_decay, 0.9, 0.99, 1e-3, 1 - 0.9**3, 1 - 0.99**3).as_tensor()

    @property
    def seed(self) -> Tensor | None:
        return SEED if self.dropout > 0 else None


class Draw:
    """Draws tensors of a dtype, of values that float32 holds too, and lays them out in memory."""

    def __init__(self, dtype: torch.dtype, layout: str = "contiguous", seed: int = 0) -> None:
        self.dtype = dtype
        self.layout = LAYOUTS[layout]
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        return self.layout((scale * torch.randn(shape, generator=self.generator)).to(self.dtype))

    def row_major(self, *shape: int) -> Tensor:
        """A tensor that is to be changed in place."""
        return torch.randn(shape, generator=self.generator).to(self.dtype)

    def states(self, descent: Descent, *shape: int) -> list[Tensor]:
        """What a parameter of a shape has of an optimizer's state, of which squares are the last."""
        states = [self.row_major(*shape) for _ in range(descent.states)]
        return [*states[:-1], states[-1].abs()] if descent >= Descent.RMSPROP else states

    def labels(self, samples: int, classes: int) -> Tensor:
        """Class indices, and one label that leaves its sample out."""
        found = torch.randint(max(classes, 1), (samples,), generator=self.generator)
        found[1 if classes else 0 : 2 if classes else None] = -100
        return found

    def kept(self, options: Options, *shape: int) -> Tensor:
        """A preactivation, or what a layer puts out."""
        a = 2 * torch.randn(shape, generator=self.generator)
        if options.given_output:
            a = reference.activation_forward(a, options.activation, options.dropout, options.seed)
        return self.layout(a.to(self.dtype))


def _transposed(values: Tensor) -> Tensor:
    return values.transpose(0, -1).contiguous().transpose(0, -1)


def _strided(values: Tensor) -> Tensor:
    wide = values.new_zeros(*values.shape[:-1], 2 * values.shape[-1])
    wide[..., ::2] = values
    return wide[..., ::2]


def _misaligned(values: Tensor) -> Tensor:
    buffer = values.new_zeros(values.numel() + 1)
    buffer[1:] = values.flatten()
    return buffer[1:].view(values.shape)


def _part(values: Tensor) -> Tensor:
    whole = values.new_full([size + 2 for size in values.shape], float("nan"))
    for dimension, size in enumerate(values.shape):
        whole = whole.narrow(dimension, 1, size)
    return whole.copy_(values)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda values: values,
    "transposed": _transposed,
    "strided": _strided,
    "misaligned": _misaligned,
    "part": _part,
    "channels_last": lambda v: v.to(memory_format=torch.channels_last) if v.dim() == 4 else v,
    "expanded": lambda v: v[:1].expand(v.shape) if v.numel() else v,
}

_Case = Callable[[Draw, Size, Options], Arguments]


# Of a feature map (4, 5, 4) and the input (2, 9, 9) that it comes from.
_CONVOLUTION = ([3, 2], [2, 2], [1, 0], [1, 2], 2)

# Over a feature map (7, 8), which it pools to (4, 3).
_WINDOW = ([3, 2], [2, 3], [1, 1], [1, 2], True)


def _dfa_conv2d_update(draw: Draw, s: Size, o: Options) -> Arguments:
    kept = draw.kept(Options(o.activation, o.given_output), s.samples, 4, 5, 4)
    error, feedback = draw(s.samples, s.classes), draw(4 * 5 * 4, s.classes)
    return (error, feedback, kept, draw(s.samples, 2, 9, 9), o.activation, o.given_output, *_CONVOLUTION)


def _optimizer_steps(draw: Draw, s: Size, o: Options) -> Arguments:
    shapes = [(s.units, s.inputs), (s.units,), (1, s.samples, s.inputs)]
    return (
        [draw.row_major(*shape) for shape in shapes],
        [state for shape in shapes for state in draw.states(o.descent, *shape)],
        [draw(*shape) for shape in shapes],
        o.descent,
        o.settings,
    )


def _layers(draw: Draw, shapes: Sequence[tuple[int, int]], o: Options) -> tuple[list[Tensor], ...]:
    """Weights, biases and the states of both."""
    return (
        [draw.row_major(*shape) for shape in shapes],
        [draw.row_major(units) for units, _ in shapes],
        [state for shape in shapes for state in draw.states(o.descent, *shape)],
        [state for units, _ in shapes for state in draw.states(o.descent, units)],
    )


def _linear_steps(draw: Draw, s: Size, o: Options) -> Arguments:
    shapes = [(s.units, s.inputs), (1, s.units), (2 * s.units, 1)]
    return (
        *_layers(draw, shapes, o),
        [draw(s.samples, units) for units, _ in shapes],
        [draw(s.samples, inputs) for _, inputs in shapes],
        [0.3, 1.0, -2.0],
        o.descent,
        o.settings,
    )


def _feedback_steps(draw: Draw, s: Size, o: Options) -> Arguments:
    shapes = [(s.units, s.inputs), (2 * s.units, s.inputs + 1)]
    weight, bias, *states = _layers(draw, shapes, o)
    return (
        weight,
        bias,
        # NOTE: no squares near 0, where a step makes of the rounding of δ whatever that happens to be.
        *([state.abs() + 0.1 for state in of_parameters] for of_parameters in states),
        draw(s.samples, s.classes),
        [draw(units, s.classes) for units, _ in shapes],
        [draw.kept(Options(o.activation, o.given_output), s.samples, units) for units, _ in shapes],
        [draw(s.samples, inputs) for _, inputs in shapes],
        o.activation,
        o.given_output,
        [0.3, -2.0],
        o.descent,
        o.settings,
    )


CASES: dict[str, _Case] = {
    "activation_forward": lambda draw, s, o: (
        draw.kept(Options(), s.samples, s.units),
        o.activation,
        o.dropout,
        o.seed,
    ),
    "activation_backward": lambda draw, s, o: (
        draw(s.samples, s.units),
        draw.kept(o, s.samples, s.units),
        o.activation,
        o.given_output,
        o.dropout,
        o.seed,
    ),
    "activation_difference": lambda draw, s, o: (
        draw(s.samples, s.units, scale=2),
        draw(s.samples, s.units, scale=0.05),
        o.activation,
        o.dropout,
        o.seed,
    ),
    "feedback_term": lambda draw, s, o: (
        draw(s.samples, s.classes),
        draw(s.units, s.classes),
        draw.kept(o, s.samples, s.units),
        o.activation,
        o.given_output,
        o.dropout,
        o.seed,
    ),
    "feedback_terms": lambda draw, s, o: (
        draw(s.samples, s.classes),
        [draw(units, s.classes) for units in (s.units, 1, 2 * s.units)],
        [draw.kept(Options(o.activation, o.given_output), s.samples, units) for units in (s.units, 1, 2 * s.units)],
        o.activation,
        o.given_output,
    ),
    "linear_forward": lambda draw, s, o: (
        draw(s.samples, s.inputs),
        draw(s.units, s.inputs),
        draw(s.units),
        o.activation,
        o.dropout,
        o.seed,
        True,
    ),
    "linear_difference": lambda draw, s, o: (
        draw(s.samples, s.inputs, scale=0.01),
        draw(s.units, s.inputs),
        draw(s.samples, s.units, scale=2),
        o.activation,
        o.dropout,
        o.seed,
    ),
    "linear_update": lambda draw, s, o: (draw(s.samples, s.units), draw(s.samples, s.inputs), 0.3, True),
    "linear_updates": lambda draw, s, o: (
        [draw(s.samples, units) for units in (s.units, 1, 2 * s.units)],
        [draw(s.samples, inputs) for inputs in (s.inputs, s.units, 1)],
        [0.3, 1.0, -2.0],
        True,
    ),
    "optimizer_steps_": _optimizer_steps,
    "linear_steps_": _linear_steps,
    "feedback_steps_": _feedback_steps,
    "dfa_linear_update": lambda draw, s, o: (
        draw(s.samples, s.classes),
        draw(s.units, s.classes),
        draw.kept(Options(o.activation, o.given_output), s.samples, s.units),
        draw(s.samples, s.inputs),
        o.activation,
        o.given_output,
    ),
    "pepita_linear_update": lambda draw, s, o: (
        draw(s.samples, s.units),
        draw(s.samples, s.units),
        draw(s.samples, s.inputs),
    ),
    "conv2d_update": lambda draw, s, o: (
        draw(s.samples, 4, 5, 4),
        draw(s.samples, 2, 9, 9),
        *_CONVOLUTION,
        0.3,
        True,
    ),
    "dfa_conv2d_update": _dfa_conv2d_update,
    "pepita_conv2d_update": lambda draw, s, o: (
        draw(s.samples, 4, 5, 4),
        draw(s.samples, 4, 5, 4),
        draw(s.samples, 2, 9, 9),
        *_CONVOLUTION,
    ),
    "modulate_input": lambda draw, s, o: (
        draw(s.samples, s.inputs),
        draw(s.samples, s.classes),
        draw(s.inputs, s.classes),
        -0.7,
    ),
    "cross_entropy": lambda draw, s, o: (draw(s.samples, s.classes, scale=3), draw.labels(s.samples, s.classes), True),
    "max_pool2d_forward": lambda draw, s, o: (draw(s.samples, 3, 7, 8), *_WINDOW),
    "max_pool2d_backward": lambda draw, s, o: (
        draw(s.samples, 3, 4, 3),
        draw(s.samples, 3, 7, 8),
        draw.kept(o, s.samples, 3, 7, 8),
        o.activation,
        o.given_output,
        o.dropout,
        o.seed,
        *_WINDOW,
    ),
    "max_pool2d_difference": lambda draw, s, o: (
        draw(s.samples, 3, 7, 8),
        draw(s.samples, 3, 7, 8, scale=0.1),
        *_WINDOW,
    ),
}

# On CUDA the library may multiply for them.
WITH_PRODUCT = {op for op in CASES if op.startswith(("feedback_term", "linear", "dfa", "pepita_linear", "modulate"))}
ON_CPU_ALONE = {"feedback_steps_", "max_pool2d_forward", "max_pool2d_backward"}
WITH_ACTIVATION = [op for op in CASES if "activation" in SCHEMAS[op]]
WITH_OUTPUT = [op for op in CASES if "given_output" in SCHEMAS[op]]
WITH_DROPOUT = [op for op in CASES if "dropout" in SCHEMAS[op]]
WITH_DESCENT = [op for op in CASES if "descent" in SCHEMAS[op]]


def arguments(
    op: str,
    dtype: torch.dtype,
    size: Size = Size(),
    options: Options = Options(),
    layout: str = "contiguous",
    seed: int = 0,
) -> Arguments:
    """Arguments of an op, the same at every call."""
    return CASES[op](Draw(dtype, layout, seed), size, options)


def call(kernel: Callable[..., Any], op: str, values: Sequence[Any]) -> tuple[Tensor, ...]:
    """What a kernel gives, or changes in a copy of its arguments, as several tensors."""
    if not op.endswith("_"):
        return as_tuple(kernel(*values))
    copies = [_copy(value) for value in values]
    kernel(*copies)
    schema = getattr(torch.ops.fastalign, op).default._schema
    written = [copy for copy, a in zip(copies, schema.arguments, strict=True) if a.alias_info is not None]
    return tuple(tensor for copy in written if copy is not None for tensor in as_tuple(copy))


def _copy(value: Any) -> Any:
    """A tensor, or those in a list, in other memory."""
    if isinstance(value, list):
        return [_copy(v) for v in value]
    return value.clone() if isinstance(value, Tensor) else value


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    """One tensor or several as several."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def in_dtype(values: Sequence[Any], dtype: torch.dtype) -> Arguments:
    """The arguments with every floating-point tensor in a dtype."""

    def convert(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(dtype)
        return [convert(v) for v in value] if isinstance(value, list) else value

    return tuple(convert(value) for value in values)


def run_reference(op: str, values: Sequence[Any]) -> tuple[Tensor, ...]:
    return call(getattr(reference, op), op, values)


def _plain_difference(a: Tensor, delta_a: Tensor, activation: int, dropout: float, seed: Tensor | None) -> Tensor:
    """f(a + Δa) − f(a) as one would write it; the reference goes through float64."""
    wide = a.to(torch.promote_types(a.dtype, torch.float32))
    difference = reference.activate(wide + delta_a.to(wide.dtype), activation) - reference.activate(wide, activation)
    if seed is not None:
        difference = difference * reference.dropout_factor(difference, dropout, seed)
    return difference.to(a.dtype)


def run_plain(op: str, values: Sequence[Any]) -> tuple[Tensor, ...]:
    """What plain PyTorch gives in the dtype of the arguments."""
    if op == "activation_difference":
        return (_plain_difference(*values),)
    if op == "linear_difference":
        delta, weight, a, *rest = values
        wide = torch.promote_types(a.dtype, torch.float32)
        return (_plain_difference(a, delta.to(wide) @ weight.to(wide).T, *rest),)
    return run_reference(op, values)


def expected(op: str, values: Sequence[Any]) -> list[Expected]:
    """What each result of an op is compared with."""
    return expected_of(lambda v: run_reference(op, v), lambda v: run_plain(op, v), values)


def expected_of(
    exact: Callable[[Arguments], tuple[Tensor, ...]],
    usual: Callable[[Arguments], tuple[Tensor, ...]],
    values: Sequence[Any],
) -> list[Expected]:
    """The same of functions: `exact` in float64, `usual` in the dtype of the arguments.

    What float64 itself is wrong by, nothing tells; its error is taken as that of float32, scaled by their units in the
    last place, and by another half because the truth is then wrong by as much.
    """
    truth = exact(in_dtype(values, torch.float64))
    plain = usual(tuple(values))
    if plain[0].dtype != torch.float64:
        return _compared(truth, plain, functools.cache(lambda: modelled(usual, tuple(values))))
    units = 1.5 * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    single = in_dtype(values, torch.float32)

    def widened(results: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(t.where(~t.isfinite(), t + units * (r - t)) for t, r in zip(truth, results, strict=True))

    draws = functools.cache(lambda: [widened(results) for results in modelled(usual, single)])
    return _compared(truth, widened(usual(single)), draws)


def _compared(
    truth: Sequence[Tensor], plain: Sequence[Tensor], draws: Callable[[], Sequence[Sequence[Tensor]]]
) -> list[Expected]:
    pairs = enumerate(zip(truth, plain, strict=True))
    return [Expected(t, p, lambda i=i: [results[i] for results in draws()]) for i, (t, p) in pairs]  # type: ignore[misc]


def assert_results(results: Tensor | Sequence[Tensor], op: str, values: Sequence[Any]) -> None:
    """Raises AssertionError where a result of an op on these arguments is less accurate than it has to be."""
    for actual, each in zip(as_tuple(results), expected(op, values), strict=True):
        assert_as_accurate(actual, each)
