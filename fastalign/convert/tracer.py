"""torch.fx's tracer for a module's own forward, which refuses what a graph of calls would leave out."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

_HINTS = {
    "control flow": "it decides by its input, whose values, shape and device are not known while it is traced",
    "item assignment": "it assigns to elements of a tensor, which tracing does not follow",
}
"""What a forward does that torch.fx cannot trace, by some words of torch.fx's error."""


class NotKeptError(Exception):
    """What a forward does besides calculating, which a graph of its calls would leave out."""


class _Stored(fx.Proxy):
    """A weight or a buffer while a forward is traced, whose shape is known."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, tensor: Tensor) -> None:
        super().__init__(node, tracer)
        self.shape, self.ndim = tensor.shape, tensor.ndim
        self.size, self.dim, self.numel = tensor.size, tensor.dim, tensor.numel


class Tracer(fx.Tracer):
    """Records the calls in a module's own forward; optional arguments keep their defaults."""

    proxy_buffer_attributes = True

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self._stored: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return True

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        return root_fn, [self.root, self.create_proxy("placeholder", "input", (), {})]

    def create_proxy(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, *args, **kwargs)
        is_stored = kind == "get_attr" and target in self._stored
        return _Stored(proxy.node, self, self._stored[target]) if is_stored else proxy

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if not torch.is_grad_enabled():
            raise NotKeptError("it calculates without gradients; freeze layers by requires_grad_(False)")
        return super().create_node(*args, **kwargs)


@contextmanager
def everything_is_recorded() -> Iterator[None]:
    """Let contexts and assignments raise that no graph would hold."""

    def enter(context: object) -> None:
        raise NotKeptError("it enters torch.autocast, which belongs around the call of the network")

    def assign(proxy: fx.Proxy, name: str, value: object) -> None:
        if name in ("data", "grad", "requires_grad"):
            raise NotKeptError(f"it assigns to the {name} of a tensor, which would not happen any more")
        object.__setattr__(proxy, name, value)

    enter_autocast = torch.autocast.__enter__
    torch.autocast.__enter__, fx.Proxy.__setattr__ = enter, assign  # type: ignore[assignment, method-assign]
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.autocast.__enter__ = enter_autocast  # type: ignore[method-assign]
        del fx.Proxy.__setattr__


def reason_of(error: Exception) -> str:
    """Return why a forward could not be traced, and the place in the user's code."""
    if isinstance(error, NotKeptError):
        return f"{error}{_place_of(error)}"
    hints = [f": {hint}" for said, hint in _HINTS.items() if said in str(error)]
    return "".join([f"its forward cannot be traced ({error})", *hints, _place_of(error)])


def _place_of(error: BaseException) -> str:
    """Return the file and line of the user's code that raised an error."""
    libraries = [Path(torch.__file__).parent, Path(__file__).parent]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith("<") and not any(map(Path(frame.filename).is_relative_to, libraries)):
            return f", at {frame.filename}, line {frame.lineno}"
    return ""
