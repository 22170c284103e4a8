"""Which modules a network may read in place of calling them, and what it reads of them."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from fastalign.engine.layers import Conv2d, Linear

_CONVOLUTION = ("_conv_forward", "padding_mode", "stride", "padding", "dilation", "groups")

_ATTRIBUTES: dict[type[torch.nn.Module], tuple[str, ...]] = {
    torch.nn.Linear: (),
    Linear: ("activation",),
    torch.nn.Conv2d: _CONVOLUTION,
    Conv2d: (*_CONVOLUTION, "activation"),
    torch.nn.Identity: (),
    torch.nn.Tanh: (),
    torch.nn.Sigmoid: (),
    torch.nn.ReLU: (),
    torch.nn.LeakyReLU: ("negative_slope",),
    torch.nn.ELU: ("alpha",),
    torch.nn.Softplus: ("beta", "threshold"),
    torch.nn.SiLU: (),
    torch.nn.GELU: ("approximate",),
    torch.nn.Dropout: ("training", "p"),
    torch.nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    torch.nn.Flatten: ("start_dim", "end_dim"),
    torch.nn.Sequential: (),
}
"""What a module's output depends on, besides its input, its parameters and its code."""


def _code_of(kind: type[torch.nn.Module]) -> list[tuple[type, str, Any]]:
    """The functions that a call of such a module runs, each with its class and name."""
    bases = kind.__mro__[: kind.__mro__.index(torch.nn.Module)]
    return [(b, name, vars(b)[name]) for b in bases for name in ("forward", "_conv_forward") if name in vars(b)]


_CODE = {kind: _code_of(kind) for kind in _ATTRIBUTES}
"""The code of each kind when this module was imported; `_is_own` refuses what had been replaced by then."""


def _is_own(kind: type, function: Any) -> bool:
    return getattr(function, "__module__", None) == kind.__module__ and not hasattr(function, "__wrapped__")


def is_plain(module: torch.nn.Module) -> bool:
    """Whether the module computes what its exact type says, so that its attributes may be read instead of a call.

    It does not if its forward was replaced, on itself or on a class of it, or if a setting is a tensor.
    """
    kind = type(module)
    if kind not in _ATTRIBUTES or not {"forward", "_conv_forward"}.isdisjoint(vars(module)):
        return False
    if not all(vars(b).get(name) is function and _is_own(b, function) for b, name, function in _CODE[kind]):
        return False
    return not any(isinstance(vars(module).get(name), Tensor) for name in _ATTRIBUTES[kind])


def reading_of(module: torch.nn.Module) -> Callable[[Any], object]:
    """Return the function that reads all of a module that `is_plain` and the plan depend on, hooks and children apart.

    It is called at every step, and so has no Python code of its own.
    """
    names = _ATTRIBUTES.get(type(module))
    if names is not None:
        return attrgetter("__class__", "forward", *names)
    return attrgetter("__class__", "is_plain_chain") if hasattr(module, "is_plain_chain") else attrgetter("__class__")


def inherited_code(module: torch.nn.Module) -> list[tuple[type, str]]:
    """The classes and names of the functions that a plain module's forward calls, which `reading_of` does not see."""
    return [(b, name) for b, name, _ in _CODE.get(type(module), ()) if b is not type(module)]
