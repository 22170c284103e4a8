"""What a recorded step relies on, looked at again before it is replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as _torch_module

from fastalign.ops import native

_LAYOUT = attrgetter("shape", "dtype")
_IS_TRAINED = attrgetter("requires_grad")


Container = dict[Any, Any] | list[Any]

GLOBAL_HOOKS: tuple[dict[int, Any], ...] = (
    _torch_module._global_forward_pre_hooks,
    _torch_module._global_forward_hooks,
    _torch_module._global_backward_pre_hooks,
    _torch_module._global_backward_hooks,
)
"""The hooks that torch calls for every module."""


def hooks_of(module: torch.nn.Module) -> tuple[dict[int, Any], ...]:
    """The module's own hooks, by kind."""
    return module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks


class Watch:
    """Values as they were when they were noted.

    In flat lists that are gone through without Python code of their own: going through a network's tree of modules at
    every step would cost more than its kernels.
    """

    def __init__(self) -> None:
        self._values: list[tuple[Callable[[Any], object], Any, object]] = []
        self._tensors: list[Tensor] = []
        self._containers: list[Container] = []
        self._hooks: list[dict[int, Any]] = []
        self._members: list[object] = []
        self._trained: list[bool] = []
        self._places: list[object] = []

    def note(self, get: Callable[[Any], object], thing: object, value: object = None) -> None:
        """Note what get(thing) is; a copy of that as `value`, if it changes in place."""
        self._values.append((get, thing, get(thing) if value is None else value))

    def note_members(self, holder: dict[str, Any]) -> None:
        """Note which objects (modules, parameters, buffers) are the values of a dictionary."""
        self._containers.append(holder)
        self._members += holder.values()

    def note_hooks(self, *modules: torch.nn.Module) -> None:
        """Note where the hooks of modules are; a watch that begins holds while there are none."""
        for m in modules:
            self._hooks += hooks_of(m)

    def include(self, other: Watch) -> None:
        """Note what another watch has noted of values, members and hooks."""
        self._values += other._values
        self._containers += other._containers
        self._members += other._members
        self._hooks += other._hooks

    def has_hooks(self) -> bool:
        """Whether there are hooks where `note_hooks` and torch's global registries keep them."""
        return any(self._hooks) or any(GLOBAL_HOOKS)

    def note_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Note where tensors lie in memory, how, and whether they are trained."""
        self._tensors += tensors

    def begin(self) -> bool:
        """Everything is noted. Whether it holds."""
        if self.has_hooks():
            return False
        self._containers += [*self._hooks, *GLOBAL_HOOKS]
        self._trained, self._places = list(map(_IS_TRAINED, self._tensors)), self._find_places()
        return self.holds()

    def holds(self, places: bool = True) -> bool:
        """Whether everything is as it was; without `places`, wherever the tensors lie."""
        if not self.values_hold():
            return False
        if list(map(_IS_TRAINED, self._tensors)) != self._trained:
            return False
        return not places or self._find_places() == self._places

    def values_hold(self) -> bool:
        """Whether values and members are as they were."""
        for get, thing, value in self._values:
            if get(thing) != value:
                return False
        return hold_the_same(self._containers, self._members)

    def _find_places(self) -> list[object]:
        tensors = self._tensors
        return [*map(Tensor.data_ptr, tensors), *map(Tensor.stride, tensors), *map(_LAYOUT, tensors)]


def members_of(containers: Iterable[Container]) -> list[object]:
    """The values of the dictionaries and lists, one after the other."""
    return list(chain.from_iterable(c.values() if isinstance(c, dict) else c for c in containers))


def are_the_same(objects: Sequence[object], others: Sequence[object]) -> bool:
    """Whether the objects are those others, which need not be comparable."""
    return len(objects) == len(others) and all(map(is_, objects, others))


def _hold_the_same(containers: list[Container], members: list[object]) -> bool:
    return are_the_same(members_of(containers), members)


hold_the_same: Callable[[list[Container], list[object]], bool] = (
    _hold_the_same if native.module is None else native.module.hold_the_same
)
"""Whether `members_of` the containers are those objects."""
