"""Run a user's modules and leave no mark on them: attributes, buffers, weights and random states stay as they were."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_NAMED = ("_parameters", "_buffers", "_modules")
"""A module's dictionaries whose keys are attributes."""


@contextmanager
def untouched(module: torch.nn.Module) -> Iterator[Attributes]:
    """Let modules be run within the context and be as before after it; yields what they were like.

    Tensors are copied only once something is about to write to them. Not undone is what reaches beyond torch and the
    attributes of modules: files, global variables, the insides of other objects.
    """
    before, writes, numpy = Attributes(module), _Writes(), sys.modules.get("numpy")
    states = random.getstate(), None if numpy is None else numpy.random.get_state()
    devices = {p.device.index for p in module.parameters() if p.is_cuda}
    try:
        with torch.random.fork_rng(devices), writes:
            yield before
    finally:
        writes.undo()
        before.restore()
        random.setstate(states[0])
        if numpy is not None:
            numpy.random.set_state(states[1])


class _Contents(NamedTuple):
    """What a dictionary, list, set or deque held."""

    name: str
    """The attribute that it is, or where its keys are the attributes, what their names begin with."""
    is_namespace: bool
    container: Any
    before: Any

    def changes(self) -> list[str]:
        """Return the names of the attributes that are others now."""
        now, before = self.container, self.before
        if self.is_namespace:
            return [f"{self.name}{key}" for key in {**before, **now} if now.get(key, self) is not before.get(key, self)]
        pairs = (now.values(), before.values()) if isinstance(now, dict) else (now, before)
        return [] if [*map(id, pairs[0])] == [*map(id, pairs[1])] else [self.name]

    def restore(self) -> None:
        """Let the container hold what it held."""
        self.container.clear()
        (self.container.extend if isinstance(self.container, list | deque) else self.container.update)(self.before)


class Attributes:
    """The attributes of a module and of the modules in it, with what containers among them hold."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._contents: dict[int, _Contents] = {}
        self._tensors: list[tuple[str, Tensor, int]] = []
        for name, inner in module.named_modules():
            self._note(f"{name}." if name else "", vars(inner), is_namespace=True)
        # A tensor may be given other memory: `weight.data = …`.
        self._memory = [(tensor, tensor.data) for tensor in (*module.parameters(), *module.buffers())]

    def _note(self, name: str, container: Any, is_namespace: bool = False) -> None:
        if id(container) in self._contents:
            return
        self._contents[id(container)] = _Contents(name, is_namespace, container, container.copy())
        for key, value in container.items() if isinstance(container, dict) else ((None, value) for value in container):
            inner = is_namespace and key in _NAMED
            its_name = f"{name}{key}" if is_namespace and not inner else name
            if isinstance(value, dict | list | set | deque):
                self._note(its_name, value, inner)
            elif isinstance(value, Tensor) and not value.is_inference():
                self._tensors.append((its_name, value, value._version))

    def changes(self) -> list[str]:
        """Return the names of the attributes that are others now, or were written to."""
        changed = [name for contents in self._contents.values() for name in contents.changes()]
        return changed + [name for name, tensor, version in self._tensors if tensor._version != version]

    def restore(self) -> None:
        """Let all attributes be what they were."""
        for contents in self._contents.values():
            contents.restore()
        for tensor, data in self._memory:
            if (tensor.data_ptr(), tensor.shape, tensor.stride()) != (data.data_ptr(), data.shape, data.stride()):
                tensor.data = data


class _Writes(TorchDispatchMode):
    """Copies what is in memory when a call is about to write there, unless that memory was made within the mode."""

    def __init__(self) -> None:
        super().__init__()
        self._made: set[int] = set()
        self._copies: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        is_new = op is torch.ops.aten.lift_fresh.default  # the tensor that torch.tensor makes of numbers
        given = set() if is_new else {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(_written(op, args, kwargs)):
            if storage._cdata not in self._made and storage._cdata not in self._copies:
                self._copies[storage._cdata] = storage, storage.clone()
        result = op(*args, **kwargs)
        self._made |= {storage._cdata for storage in _storages(result)} - given
        return result

    def undo(self) -> None:
        """Write back what was there before."""
        for storage, copy in self._copies.values():
            storage.copy_(copy)


def _written(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the arguments that a call may write to."""
    if "batch_norm" in op._schema.name:
        return [args, kwargs]  # of which one writes to running statistics that its schema says it only reads
    arguments = op._schema.arguments
    names = {a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write}
    positional = [value for a, value in zip(arguments, args, strict=False) if a.name in names]
    return [*positional, *(value for name, value in kwargs.items() if name in names)]


def _storages(values: Any) -> list[torch.UntypedStorage]:
    found = []
    for value in tree_leaves(values):
        if isinstance(value, Tensor) and value.layout is torch.strided:
            try:
                found.append(value.untyped_storage())
            except RuntimeError:  # of a tensor that wraps others
                continue
    return found
