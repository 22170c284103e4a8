"""Autocast for kernels of our own: what they are given is cast as torch casts for its matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

_CAST = (torch.float32, torch.bfloat16, torch.float16)


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for this kind of device."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def autocast(tensor: Tensor) -> Tensor:
    """The tensor in autocast's dtype where that is on; float64 stays."""
    if tensor.dtype not in _CAST or not autocasts(tensor.device):
        return tensor
    return tensor.to(torch.get_autocast_dtype(tensor.device.type))
