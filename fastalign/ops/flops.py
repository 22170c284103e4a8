"""What torch.utils.flop_counter asks of an op: the floating-point operations of its matrix products, by shapes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from fastalign.ops.schemas import kernels

_Shape = Sequence[int]


def _product(left: _Shape, right: _Shape) -> int:
    """Return those of left (N, K) · rightᵀ (K, M)."""
    return 2 * prod(left) * right[0]


def _update(post: _Shape, pre: _Shape) -> int:
    """Return those of postᵀ (H, N) · pre (N, K)."""
    return 2 * prod(post) * pre[1]


def _conv2d_update(post: _Shape, pre: _Shape, kernel: _Shape, groups: int) -> int:
    """Return those of post (N, Co, Ho, Wo) times the patches of pre (N, Ci, Hi, Wi)."""
    return 2 * prod(post) * (pre[1] // groups) * prod(kernel)


def _products(left: _Shape, right: Sequence[_Shape]) -> int:
    return sum(_product(left, r) for r in right)


def _updates(post: Sequence[_Shape], pre: Sequence[_Shape]) -> int:
    return sum(map(_update, post, pre))


_FORMULAS: dict[str, Callable[..., int]] = {
    "linear_forward": lambda x, weight, *_: _product(x, weight),
    "linear_difference": lambda delta, weight, *_: _product(delta, weight),
    "feedback_term": lambda signal, feedback, *_: _product(signal, feedback),
    "feedback_terms": lambda signal, feedback, *_: _products(signal, feedback),
    "linear_update": lambda post, pre, *_: _update(post, pre),
    "linear_updates": lambda post, pre, *_: _updates(post, pre),
    "linear_steps_": lambda *a: _updates(a[4], a[5]),
    "feedback_steps_": lambda *a: _products(a[4], a[5]) + _updates(a[6], a[7]),
    "dfa_linear_update": lambda e, b, kept, x, *_: _product(e, b) + _update(kept, x),
    "pepita_linear_update": lambda h, _h_mod, x_mod: _update(h, x_mod),
    "conv2d_update": lambda *a: _conv2d_update(a[0], a[1], a[2], a[6]),
    "dfa_conv2d_update": lambda *a: _product(a[0], a[1]) + _conv2d_update(a[2], a[3], a[6], a[10]),
    "pepita_conv2d_update": lambda *a: _conv2d_update(a[0], a[2], a[3], a[7]),
    "modulate_input": lambda _x, e, projection, *_: _product(e, projection),
}
"""The FLOPs of each op from the shapes of its arguments; one that multiplies no matrices has none, as in torch."""


def register() -> None:
    """Make the formulas known to torch's counter, and to those that are counting, if somebody has imported it."""
    flop_counter = sys.modules.get("torch.utils.flop_counter")
    if flop_counter is None:
        return
    ops = {getattr(kernels, name): formula for name, formula in _FORMULAS.items()}
    for op, formula in ops.items():
        if op not in flop_counter.flop_registry:
            flop_counter.register_flop_formula(op)(_of_arguments(formula))
    for mode in _get_current_dispatch_mode_stack():
        if isinstance(counter := getattr(mode, "counter", None), flop_counter.FlopCounterMode):
            counter.flop_registry |= {op: flop_counter.flop_registry[op] for op in ops}


def _of_arguments(formula: Callable[..., int]) -> Callable[..., int]:
    """Return the formula as torch calls it, with the shape of the result besides."""

    def count(*arguments: Any, **_: Any) -> int:
        return formula(*arguments)

    return count
