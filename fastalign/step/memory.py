"""Whether tensors share memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_PLAIN = (Tensor, torch.nn.Parameter)


def addresses(tensors: Iterable[Tensor]) -> list[int]:
    """Where the tensors begin in memory, those left out that are not a part of it or of a type of a user's own."""
    return [t.data_ptr() for t in tensors if _has_memory(t)]


def storages(tensors: Iterable[Tensor]) -> frozenset[int]:
    """Where the storages begin in which the tensors lie."""
    return frozenset(t.untyped_storage().data_ptr() for t in tensors if _has_memory(t))


def share_memory(moving: Iterable[Tensor], fixed: Iterable[Tensor] = ()) -> bool:
    """Whether a tensor that moves lies in memory that overlaps with that of another, moving or fixed.

    Views that interleave without a common element count as overlapping.
    """
    reached: dict[torch.device, list[int]] = defaultdict(lambda: [0, 0])  # by those that move, by any
    spans = [(*_span(t), True) for t in moving if _has_memory(t)] + [
        (*_span(t), False) for t in fixed if _has_memory(t)
    ]
    for start, end, device, moves in sorted(spans, key=lambda span: span[:2]):
        of_moving, of_any = reached[device]
        if start < (of_any if moves else of_moving):
            return True
        reached[device] = [max(of_moving, end) if moves else of_moving, max(of_any, end)]
    return False


def _has_memory(tensor: Tensor) -> bool:
    if type(tensor) not in _PLAIN or tensor.layout is not torch.strided:
        return False
    return tensor.numel() > 0 and not tensor._is_zerotensor()


def _span(tensor: Tensor) -> tuple[int, int, torch.device]:
    """The first byte, the byte after the last, and the device."""
    elements = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + elements * tensor.element_size(), tensor.device
