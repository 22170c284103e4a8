"""Optimizers by name with the papers' defaults, each in torch's fastest form, and the learning-rate steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch.nn import Parameter
from torch.optim import Optimizer


def _sgd(parameters: list[Parameter], learning_rate: float) -> Optimizer:
    # The fused SGD of torch 2.13 leaves half-precision parameters on the CPU unchanged.
    fused = all(parameter.is_cuda or parameter.itemsize >= 4 for parameter in parameters)
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, fused=fused, foreach=not fused)


def _rmsprop(parameters: list[Parameter], learning_rate: float) -> Optimizer:
    return torch.optim.RMSprop(parameters, lr=learning_rate, alpha=0.99, eps=1e-8, foreach=True)


def _adam(parameters: list[Parameter], learning_rate: float) -> Optimizer:
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)


def _adamw(parameters: list[Parameter], learning_rate: float) -> Optimizer:
    return torch.optim.AdamW(parameters, lr=learning_rate, fused=True)


OPTIMIZERS: dict[str, Callable[[list[Parameter], float], Optimizer]] = {
    "sgd": _sgd,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "adamw": _adamw,
}


def make_optimizer(
    name: str, parameters: Iterable[Parameter], learning_rate: float, weight_decay: float | None = None
) -> Optimizer:
    """The optimizer of this name for the parameters that are not frozen.

    sgd: momentum 0.9 (Dellaferrera & Kreiman 2022). rmsprop: α = 0.99, ε = 1e-8, no momentum (Nøkland 2016). adam,
    adamw: torch's defaults. Raises ValueError for another name.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer is {name!r}, expected one of {', '.join(OPTIMIZERS)}")
    optimizer = OPTIMIZERS[name]([parameter for parameter in parameters if parameter.requires_grad], learning_rate)
    if weight_decay is not None:
        for group in optimizer.param_groups:
            group["weight_decay"] = weight_decay
    return optimizer


def learning_rate_at(epoch: int, initial: float, decay_epochs: Sequence[int], decay: float) -> float:
    """The learning rate of an epoch (counted from 1): `initial`, times `decay` for each of `decay_epochs` completed."""
    return initial * decay ** sum(completed < epoch for completed in decay_epochs)
