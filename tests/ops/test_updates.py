"""The updates of linear layers by the CUDA kernels: around their tiles, split over the batch, into every sink."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import emulator
import pytest
import torch
from cases import DTYPES, LAYOUTS, Draw, Size, arguments, assert_results, expected_of
from compare import Expected, assert_as_accurate
from torch import Tensor

from fastalign.ops import reference
from fastalign.ops.activations import Activation
from fastalign.ops.descent import Descent, Settings

MISSING = emulator.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
OPS = ("linear_update", "dfa_linear_update", "pepita_linear_update")
ops = pytest.mark.parametrize("op", OPS)
SIZE = Size()
PLACES = ("first", "second")  # of the states of a tensor
ONE_PART, MANY_PARTS = 1, 1000  # multiprocessors that leave a sum whole, and that split it


class Post(IntEnum):
    GIVEN = 0
    DIFFERENCE = 1
    FEEDBACK_TERM = 2


class Kind(IntEnum):
    """The kinds of cuda::Sink: after the first two the optimizers, by their numbers."""

    WRITE = 0
    ACCUMULATE = 1
    SGD = 2
    MOMENTUM = 3
    NESTEROV = 4
    RMSPROP = 5
    ADAM = 6
    ADAMW = 7

    @property
    def descent(self) -> Descent | None:
        return Descent(self - Kind.SGD) if self >= Kind.SGD else None


posts = pytest.mark.parametrize("post", Post, ids=lambda post: post.name.lower())
kinds = pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name.lower())
SETTINGS = Settings(0.1, 0.01, 0.9, 0.99, 1e-3, 1 - 0.9**3, 1 - 0.99**3).as_tensor()


@dataclass
class Layer:
    """One update: what it is of, and the tensors that take it."""

    post: Post
    kind: Kind
    scale: float
    tensors: dict[str, Tensor]

    @classmethod
    def draw(
        cls,
        post: Post = Post.GIVEN,
        kind: Kind = Kind.WRITE,
        size: Size = SIZE,
        dtype: torch.dtype = torch.float32,
        bias: bool = True,
        seed: int = 0,
    ) -> Layer:
        draw = Draw(dtype, seed=seed)
        tensors = {"values": draw(size.samples, size.units), "pre": draw(size.samples, size.inputs)}
        if post is Post.DIFFERENCE:
            tensors["modulated"] = draw(size.samples, size.units)
        if post is Post.FEEDBACK_TERM:
            tensors["signal"], tensors["feedback"] = draw(size.samples, size.classes), draw(size.units, size.classes)
        for name, shape in (("weight", (size.units, size.inputs)), ("bias", (size.units,))):
            if name == "weight" or bias:
                tensors[name] = draw.row_major(*shape)
                if kind.descent is not None:
                    states = draw.states(kind.descent, *shape)
                    tensors |= {f"{name}_{place}": state for place, state in zip(PLACES, states, strict=False)}
        return cls(post, kind, 0.3, tensors)

    def copy(self) -> Layer:
        return replace(self, tensors={name: tensor.clone() for name, tensor in self.tensors.items()})

    def described(self) -> dict[str, Any]:
        """As the emulator's module takes it."""
        arrays = {name: emulator.array(tensor) for name, tensor in self.tensors.items()}
        sinks = {
            name: {"kind": int(self.kind), "target": arrays.pop(name)}
            | {f"{place}_state": arrays.pop(f"{name}_{place}") for place in PLACES if f"{name}_{place}" in arrays}
            | ({} if self.kind.descent is None else {"settings": emulator.array(SETTINGS)})
            for name in ("weight", "bias")
            if name in arrays
        }
        return arrays | sinks | {"post": int(self.post), "scale": self.scale, "activation": int(Activation.TANH)}

    def results(self) -> tuple[Tensor, ...]:
        """What the update changes."""
        return tuple(tensor for name, tensor in self.tensors.items() if name.startswith(("weight", "bias")))

    def expected(self) -> list[Expected]:
        names = list(self.tensors)

        def plain(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            layer = replace(self, tensors=dict(zip(names, values, strict=True))).copy()
            layer.update()
            return layer.results()

        return expected_of(plain, plain, tuple(self.tensors.values()))

    def wide(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        return tensor if tensor.dtype == torch.float64 else tensor.float()

    def wide_post(self) -> Tensor:
        values = self.wide("values")
        match self.post:
            case Post.GIVEN:
                return values
            case Post.DIFFERENCE:
                return values - self.wide("modulated")
            case Post.FEEDBACK_TERM:
                term = (self.wide("signal"), self.wide("feedback"), values, Activation.TANH, False, 0.0, None)
                return reference.feedback_term(*term)

    def given(self) -> Layer:
        """The same update of a term that is given."""
        return replace(self, post=Post.GIVEN, tensors=self.copy().tensors | {"values": self.wide_post()})

    def update(self) -> None:
        """In plain PyTorch."""
        post = self.wide_post()
        for name, update in (("weight", post.T @ self.wide("pre")), ("bias", post.sum(0))):
            if name in self.tensors:
                self.sink(name, self.scale * update)

    def sink(self, name: str, update: Tensor) -> None:
        target = self.tensors[name]
        if self.kind.descent is None:
            target.copy_(self.wide(name) + update if self.kind is Kind.ACCUMULATE else update)
        else:
            states = [self.tensors[f"{name}_{place}"] for place in PLACES[: self.kind.descent.states]]
            reference.optimizer_steps_([target], states, [update], self.kind.descent, SETTINGS)


def run(layers: list[Layer], schedule: int = 1, **settings: Any) -> Any:
    """Carries updates out in one call, and returns the device that did."""
    device = emulator.device(emulator.kernels(), schedule, **settings)
    with emulator.lines_of_faults():
        emulator.kernels().described_updates(device, [layer.described() for layer in layers])
    return device


def check_all(layers: list[Layer], **settings: Any) -> Any:
    """Carry updates out in one call, compare each with what it must be, and return the device."""
    expected = [each for layer in layers for each in layer.expected()]
    device = run(layers, **settings)
    results = [result for layer in layers for result in layer.results()]
    for actual, each in zip(results, expected, strict=True):
        assert_as_accurate(actual, each)
    return device


def check(layer: Layer, **settings: Any) -> Any:
    return check_all([layer], **settings)


def check_op(op: str, values: tuple[Any, ...], **settings: Any) -> list[Tensor]:
    results = emulator.run(op, values, emulator.device(emulator.kernels(), **settings))
    assert_results(results, op, values)
    return list(results)


# Tiles are of 64 × 64, steps of the sum of 8, 16 or 32 samples, and of 32 classes a feedback term is stored first.
@dtypes
@pytest.mark.parametrize(
    "size",
    [
        Size(samples=1, classes=1, units=1, inputs=1),
        Size(samples=7, classes=5, units=63, inputs=65),
        Size(samples=9, classes=31, units=65, inputs=64),
        Size(samples=10, classes=32, units=64, inputs=63),
        Size(samples=31, classes=33, units=37, inputs=131),
        Size(samples=32, classes=4, units=64, inputs=64),
        Size(samples=33, classes=10, units=129, inputs=1),
        Size(samples=65, classes=3, units=1, inputs=67),
        Size(samples=100, classes=13, units=72, inputs=128),
    ],
    ids=lambda size: f"{size.samples}x{size.classes}x{size.units}x{size.inputs}",
)
@ops
def test_size(op: str, size: Size, dtype: torch.dtype) -> None:
    check_op(op, arguments(op, dtype, size))


@dtypes
@ops
def test_parts_of_a_long_sum(op: str, dtype: torch.dtype) -> None:
    """The order of the threads changes no bit, the number of parts few."""
    values = arguments(op, dtype, Size(samples=1152, units=11, inputs=70))
    whole = check_op(op, values, multiprocessors=ONE_PART)
    parts = check_op(op, values, multiprocessors=MANY_PARTS)
    assert not all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True)) or dtype.itemsize == 2
    for schedule in range(2, 5):
        again = check_op(op, values, multiprocessors=MANY_PARTS, schedule=schedule)
        assert all(torch.equal(one, other) for one, other in zip(parts, again, strict=True))


def test_number_of_parts() -> None:
    steps_of_part = emulator.kernels().steps_of_part
    for tiles, steps, multiprocessors in ((1, 1000, 132), (16, 40, 132), (50, 333, 132), (132, 100, 132), (7, 31, 8)):
        parts = -(-steps // steps_of_part(tiles, steps, multiprocessors))
        assert parts > 1
        assert parts * tiles <= 2 * multiprocessors
        assert steps >= 8 * parts
    for tiles, steps, multiprocessors in ((1, 15, 132), (133, 1000, 132), (1, 0, 132), (10**6, 10**6, 1)):
        assert steps_of_part(tiles, steps, multiprocessors) == max(steps, 1)


@dtypes
@pytest.mark.parametrize("layout", LAYOUTS)
@ops
def test_layout(op: str, layout: str, dtype: torch.dtype) -> None:
    check_op(op, arguments(op, dtype, Size(samples=40, units=72, inputs=80), layout=layout))


@dtypes
@kinds
@posts
@pytest.mark.parametrize("inputs", [71, 72])
def test_sink(post: Post, kind: Kind, inputs: int, dtype: torch.dtype) -> None:
    """In whole vectors and, where rows are no multiple of 16 bytes, element by element."""
    check(Layer.draw(post, kind, Size(samples=20, units=66, inputs=inputs), dtype))


@dtypes
@kinds
def test_sink_of_a_split_sum(kind: Kind, dtype: torch.dtype) -> None:
    for inputs in (9, 16):
        layer = Layer.draw(kind=kind, size=Size(samples=700, units=7, inputs=inputs), dtype=dtype)
        assert check(layer, multiprocessors=MANY_PARTS).launches == 2


@dtypes
@kinds
def test_sink_of_misaligned_tensors(kind: Kind, dtype: torch.dtype) -> None:
    layer = Layer.draw(kind=kind, size=Size(samples=20, units=16, inputs=16), dtype=dtype)
    for name in ("weight", "weight_first", "weight_second"):
        if name not in layer.tensors:
            continue
        moved = layer.copy()
        moved.tensors[name] = LAYOUTS["misaligned"](layer.tensors[name])
        check(moved)


@kinds
@posts
def test_empty_batch(post: Post, kind: Kind) -> None:
    """An update by zero, which momentum and decay do not leave at that."""
    check(Layer.draw(post, kind, Size(samples=0, units=70, inputs=65)))


def test_empty_results() -> None:
    for size in (Size(units=0), Size(units=0, inputs=0)):
        assert check(Layer.draw(size=size)).launches == 0
    assert check(Layer.draw(size=Size(inputs=0))).launches == 1
    assert check(Layer.draw(size=Size(inputs=0), bias=False)).launches == 0
    assert run([]).launches == 0


@posts
def test_layers_share_a_launch(post: Post) -> None:
    """Their number is that of one layer, and each gets the bits that it gets alone."""
    for classes, launches in ((10, 1), (40, 2 if post is Post.FEEDBACK_TERM else 1)):
        sizes = [
            Size(samples=9, classes=classes, units=units, inputs=1 + 7 * units % 130) for units in (70, 3, 64, 131)
        ]
        layers = [Layer.draw(post, Kind.SGD, size, seed=i, bias=i != 1) for i, size in enumerate(sizes)]
        for layer in layers:
            if post is Post.FEEDBACK_TERM:
                layer.tensors["signal"] = layers[0].tensors["signal"]
        alone = [layer.copy() for layer in layers]
        for layer in alone:
            assert check(layer).launches == launches
        assert run(layers).launches == launches
        for layer, other in zip(layers, alone, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(layer.results(), other.results(), strict=True))


def chain(number: int, kind: Kind, alike: bool) -> list[Layer]:
    """Layers of one batch, in which all is alike, or as much differs as can."""
    alike_size = Size(samples=2, units=1, inputs=1)
    sizes = [alike_size if alike else Size(2, 1, 1 + i % 100, 1 + i % 99) for i in range(number)]
    return [Layer.draw(kind=kind, size=size, seed=i) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("alike", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "most"), [(Kind.WRITE, 403), (Kind.MOMENTUM, 336), (Kind.ADAM, 288)])
def test_layers_that_fit_into_a_launch(kind: Kind, most: int, alike: bool) -> None:
    assert check_all(chain(most, kind, alike)).launches == 1


@pytest.mark.slow
def test_more_layers_than_fit_into_a_launch() -> None:
    assert 1 < check_all(chain(700, Kind.ADAM, alike=False)).launches <= 3


def test_strides_of_more_than_32_bits() -> None:
    """Of rows in memory that is never touched in between."""
    layer = Layer.draw(size=Size(samples=2, units=66, inputs=65), dtype=torch.bfloat16)
    stride, no_reserve = 2**32 + 1, 0x4000  # MAP_NORESERVE, which this module does not name before Python 3.13
    for name in ("values", "pre"):
        rows = layer.tensors[name]
        memory = mmap.mmap(-1, 2 * (stride + rows.shape[1]), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
        whole = torch.frombuffer(memory, dtype=torch.bfloat16)
        layer.tensors[name] = whole.as_strided(rows.shape, (stride, 1)).copy_(rows)
    assert check_all([layer, Layer.draw(dtype=torch.bfloat16, seed=1)]).launches == 1


def test_kinds_of_posts_in_one_call() -> None:
    assert check_all([Layer.draw(post, seed=int(post)) for post in Post]).launches == len(Post)


@dtypes
@kinds
@posts
def test_product_of_the_library(post: Post, kind: Kind, dtype: torch.dtype) -> None:
    device = check(Layer.draw(post, kind, dtype=dtype), force="library")
    # A feedback term that is stored is a product too.
    assert device.products == 1 + (post is Post.FEEDBACK_TERM)


def test_choice_of_the_library() -> None:
    """For so many multiplications that its larger tiles are worth more launches."""
    assert run([Layer.draw()], force="nothing").products == 0
    assert check(Layer.draw(size=Size(samples=1025, units=512, inputs=512)), force="nothing").products == 1


@dtypes
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@ops
def test_what_is_no_number_goes_through(op: str, value: float, dtype: torch.dtype) -> None:
    """To what it is an operand of, and no further."""
    for argument in range(3 if op == "pepita_linear_update" else 2):
        values = arguments(op, dtype, Size(samples=35, units=66, inputs=65))
        values[argument][values[argument].shape[0] // 2, 1] = value
        check_op(op, values)


def to_tf32(tensor: Tensor) -> Tensor:
    """Rounded to 10 bits after the point, ties away from zero."""
    return ((tensor.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


@posts
def test_tf32(post: Post) -> None:
    """As accurate as the product of operands that plain PyTorch rounds; the bias is of operands that are not."""
    layer = Layer.draw(post, size=Size(samples=41, units=66, inputs=65))
    weight, bias = layer.expected()
    rounded = layer.given()
    for name in ("values", "pre"):
        rounded.tensors[name] = to_tf32(rounded.tensors[name])
    rounded.update()
    run([layer], tf32=True)
    assert_as_accurate(layer.tensors["weight"], weight._replace(plain=rounded.tensors["weight"]))
    assert (layer.tensors["weight"] - weight.plain).abs().max() > 1e-4, "operands that were not rounded"
    assert_as_accurate(layer.tensors["bias"], bias)
