"""Losses by name, each the sum over the samples of a loss whose error e = ∂loss/∂a_L is ŷ − y per sample.

outputs: (N, classes), the preactivations a_L of the output layer. labels: (N,) class indices. Half-precision outputs
are summed in float32. The reduction "mean" divides the sum by N, whatever the number of classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastalign.ops.schemas import kernels
from fastalign.rules.base import ErrorScale

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Softmax and cross-entropy: −Σ_n log ŷ_n[label_n], ŷ = softmax(a_L)."""
    return F.cross_entropy(_at_least_float32(outputs), labels, reduction="sum")


def binary_cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Logistic outputs and binary cross-entropy, summed over the classes: ŷ = 1 / (1 + exp(−a_L))."""
    outputs = _at_least_float32(outputs)
    return F.binary_cross_entropy_with_logits(outputs, _one_hot(labels, outputs), reduction="sum")


def mse(outputs: Tensor, labels: Tensor) -> Tensor:
    """Half the squared error, summed over the classes: ½ Σ (ŷ − y)², ŷ = a_L."""
    outputs = _at_least_float32(outputs)
    return F.mse_loss(outputs, _one_hot(labels, outputs), reduction="sum") / 2


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "binary_cross_entropy": binary_cross_entropy, "mse": mse}
REDUCTIONS: dict[str, ErrorScale] = {"mean": None, "sum": 1.0}
"""Over the batch, each with the s of every loss in it; None is N (see `Rule.sample_error_scale`)."""


def loss_named(name: str) -> Loss:
    """The loss of this name. Raises ValueError for another."""
    if name not in LOSSES:
        raise ValueError(f"loss is {name!r}, expected one of {', '.join(LOSSES)}")
    return LOSSES[name]


def _at_least_float32(outputs: Tensor) -> Tensor:
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _one_hot(labels: Tensor, outputs: Tensor) -> Tensor:
    return torch.zeros_like(outputs).scatter_(1, labels.unsqueeze(1), 1)


def loss_and_gradient(loss: str | Loss, reduction: str = "mean") -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A function of (outputs, labels) that returns the loss and ∂loss/∂outputs, outside of autograd.

    loss: the name of one, in this reduction over the batch, or a callable that returns a scalar.

    Raises:
        ValueError: for another name.
    """
    if loss == "cross_entropy":
        return lambda outputs, labels: kernels.cross_entropy(outputs, labels, reduction == "mean")
    function = _reduced(loss_named(loss), reduction) if isinstance(loss, str) else loss

    def differentiate(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            value = function(leaf, labels)
            (gradient,) = torch.autograd.grad(value, leaf)
        return value.detach(), gradient

    return differentiate


def _reduced(loss: Loss, reduction: str) -> Loss:
    return loss if reduction == "sum" else lambda outputs, labels: loss(outputs, labels) / len(labels)
