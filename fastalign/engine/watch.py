"""What a recorded step relies on, looked at again before it is replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from fastalign.ops import native

_LAYOUT = attrgetter("shape", "dtype")
_IS_TRAINED = attrgetter("requires_grad")


Container = dict[Any, Any] | list[Any]


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

    def note_hooks(self, *modules: torch.nn.Module) -> None:
        """Note that the modules have no hooks, or the watch does not hold."""
        for m in modules:
            self._hooks += (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)

    def note_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Note where tensors lie in memory, how, and whether they are trained."""
        self._tensors += tensors

    def begin(self) -> bool:
        """Everything is noted. Whether it holds."""
        if any(self._hooks):
            return False
        self._containers += self._hooks
        self._members = members_of(self._containers)
        self._trained, self._places = list(map(_IS_TRAINED, self._tensors)), self._find_places()
        return self.holds()

    def holds(self, places: bool = True) -> bool:
        """Whether everything is as it was; without `places`, wherever the tensors lie."""
        for get, thing, value in self._values:
            if get(thing) != value:
                return False
        if not hold_the_same(self._containers, self._members):
            return False
        if list(map(_IS_TRAINED, self._tensors)) != self._trained:
            return False
        return not places or self._find_places() == self._places

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
