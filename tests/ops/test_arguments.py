"""Wrong arguments: every error names the argument, what came and what was expected; none reads out of bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CASES, Size, arguments, needs_native
from torch import Tensor

from fastalign import ops


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


e, B, a, x = zeros(4, 3), zeros(5, 3), zeros(4, 5), zeros(4, 6)
maps, images = zeros(4, 2, 4, 4), zeros(4, 1, 6, 6)

WRONG: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    (ops.dfa_projection, (e[:3], B, a), {}, ValueError, r"error: expected shape \(4, \*\) = \(N, C\), got \(3, 3\)"),
    (ops.dfa_projection, (e, B[:4], a), {}, ValueError, r"feedback: expected shape \(5, 3\) = \(H, C\), got \(4, 3\)"),
    (ops.dfa_projection, (e, B, a[0]), {}, ValueError, r"preactivation: expected shape .*, got \(5,\)"),
    (
        ops.dfa_projection,
        (e, B, a, "swish"),
        {},
        ValueError,
        "activation: expected one of identity, tanh.*, got 'swish'",
    ),
    (ops.dfa_projection, (e, B, a, 3), {}, TypeError, "activation: expected a name .*, got int"),
    (
        ops.dfa_projection,
        (e, B, a),
        {"given": "input"},
        ValueError,
        "given: expected 'preactivation' or 'output', got 'input'",
    ),
    (ops.dfa_projection, (e, B, a, "gelu", "output"), {}, ValueError, "given: .*gelu.*, got 'output'"),
    (
        ops.dfa_projection,
        (e, B.double(), a),
        {},
        TypeError,
        "feedback: expected dtype torch.float32.*, got torch.float64",
    ),
    (ops.dfa_projection, (e.int(), B, a), {}, TypeError, "error: expected dtype .*, got torch.int32"),
    (ops.dfa_projection, ([1.0], B, a), {}, TypeError, "error: expected a tensor, got list"),
    (ops.dfa_projection, (e, B.to_sparse(), a), {}, TypeError, "feedback: expected a dense tensor.*sparse_coo"),
    (ops.dfa_projection, (e, B.to("meta"), a), {}, ValueError, "feedback: expected device cpu.*, got meta"),
    (ops.dfa_linear_update, (e, B, a, x[:2]), {}, ValueError, r"x: expected shape \(4, \*\) = \(N, K\), got \(2, 6\)"),
    (ops.pepita_linear_update, (a, a[:, :2], x), {}, ValueError, r"h_mod: expected shape \(4, 5\).*, got \(4, 2\)"),
    (ops.pepita_linear_update, (a, a, x[:1]), {}, ValueError, r"x_mod: expected shape \(4, \*\).*, got \(1, 6\)"),
    (ops.pepita_conv2d_update, (maps, maps, images, 2), {}, ValueError, r"x_mod: .*\(5, 5\), expected \(4, 4\)"),
    (
        ops.pepita_conv2d_update,
        (maps, maps, images, 3),
        {"groups": 2},
        ValueError,
        "groups: expected a divisor of the 1",
    ),
    (ops.pepita_conv2d_update, (maps, maps, images, 0), {}, ValueError, "kernel_size: expected at least 1, got 0"),
    (ops.pepita_conv2d_update, (maps, maps, images, (3, 3, 3)), {}, ValueError, "kernel_size: expected an int or two"),
    (ops.pepita_conv2d_update, (maps, maps, images, 3), {"padding": -1}, ValueError, "padding: expected at least 0"),
    (
        ops.pepita_conv2d_update,
        (maps, maps, images, float("inf")),
        {},
        TypeError,
        "kernel_size: expected an int .* inf",
    ),
    (
        ops.pepita_conv2d_update,
        (maps, maps, images, 3),
        {"stride": 2**70},
        ValueError,
        r"stride: expected less than 2\^31",
    ),
    (ops.pepita_conv2d_update, (maps, maps, images, 3), {"stride": None}, TypeError, "stride: expected an int .* None"),
    (ops.modulate_input, (x, e, zeros(6, 3)), {"sign": (1,)}, TypeError, r"sign: expected a number, got \(1,\)"),
    (ops.modulate_input, (x, e, zeros(6, 3)), {"sign": "1"}, TypeError, "sign: expected a number, got '1'"),
    (ops.modulate_input, (x, e, zeros(6, 3)), {"sign": zeros(2)}, TypeError, "sign: expected a number, got tensor"),
    (ops.dfa_conv2d_update, (e, B, a, images, 3), {}, ValueError, r"preactivation: expected shape \(N, Co, Ho, Wo\)"),
    (ops.modulate_input, (x, e, B), {}, ValueError, r"projection: expected shape \(6, 3\) = \(D, C\), got \(5, 3\)"),
    (ops.modulate_input, (x, e[:1], zeros(6, 3)), {}, ValueError, r"error: expected shape \(4, \*\).*, got \(1, 3\)"),
]


@pytest.mark.parametrize(("function", "values", "named", "error", "message"), WRONG, ids=range(len(WRONG)))
def test_public_functions(
    function: Callable[..., Any], values: tuple[Any, ...], named: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        function(*values, **named)


def test_numbers_are_checked_in_compiled_code_too() -> None:
    errors, F = torch.randn(4, 3), torch.randn(6, 3)
    compiled = torch.compile(lambda sign: ops.modulate_input(x, errors, F, sign), fullgraph=True, backend="eager")
    for sign in (0.5, -1, -1.5):
        assert torch.equal(compiled(sign), ops.modulate_input(x, errors, F, sign))


def altered(value: Tensor) -> list[Tensor]:
    """The tensor with each of its dimensions cut short in turn, and with a dimension more."""
    return [value.narrow(d, 0, value.shape[d] - 1) for d in range(value.dim())] + [value[None]]


# (op, argument, dimension) that no other argument says the size of, and the ops that take a tensor in any shape.
FREE = {
    ("linear_forward", "x", 0),
    ("linear_update", "post", 1),
    ("linear_update", "pre", 1),
    ("dfa_linear_update", "x", 1),
    ("pepita_linear_update", "x_mod", 1),
    ("cross_entropy", "outputs", 1),
}
ANY_SHAPE = {"activation_forward", "max_pool2d_forward"}
ANY_RANK = {"activation_backward", "activation_difference"}


def refused(expected: str) -> pytest.RaisesExc[RuntimeError]:
    """An error whose message names no file of the sources."""
    return pytest.raises(RuntimeError, match=rf"(?s)\A(?!.*\.(?:cpp|cu|h)\b).*{expected}")


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
@pytest.mark.parametrize("op", CASES)
def test_raw_ops_refuse_tensors_that_do_not_fit(op: str) -> None:
    """The ops under the public functions check too, so that no kernel reads beyond a tensor."""
    kernel = getattr(torch.ops.fastalign, op)
    values = arguments(op, torch.float32, Size(samples=4, classes=3, units=5, inputs=6))
    for index, (argument, value) in enumerate(zip(kernel.default._schema.arguments, values, strict=True)):
        if not isinstance(value, Tensor):
            continue
        with refused("dtype"):
            kernel(*values[:index], value.int(), *values[index + 1 :])
        freed = value.clone()
        freed.untyped_storage().resize_(0)
        with refused("storage was freed"):
            kernel(*values[:index], freed, *values[index + 1 :])
        for dimension, other in enumerate(altered(value)):
            free = (op, argument.name, dimension) in FREE or (op in ANY_RANK and dimension == value.dim())
            if not free and op not in ANY_SHAPE:
                with refused("expected"):
                    kernel(*values[:index], other, *values[index + 1 :])


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
def test_raw_ops_refuse_windows_that_do_not_fit() -> None:
    h = torch.zeros(1, 1, 2, 2)
    pool = torch.ops.fastalign.max_pool2d_difference
    with refused("expected two numbers"):
        pool(h, h, [2], [2], [0], [1], False)
    with refused("steps over a map of 2"):
        pool(h, h, [2, 2], [1, 1], [1, 1], [3, 3], False)
    with refused("expected two numbers"):
        torch.ops.fastalign.conv2d_update(h, h, [1], [1], [0], [1], 1, 1.0, True)


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
def test_what_torch_fails_at_is_told_in_its_words() -> None:
    """Here: more memory than there are addresses."""
    post = torch.zeros(1, 1).expand(1, 1 << 24)
    with pytest.raises(RuntimeError, match="empty_strided failed: "):
        torch.ops.fastalign.linear_update(post, post, 1.0, False)
