"""Losses by name, each the sum over the samples of a loss whose error e = ∂loss/∂a_L is ŷ − y per sample.

outputs: (N, classes), the preactivations a_L of the output layer. labels: (N,) class indices of any integer dtype, or
targets shaped like the outputs: probabilities for the cross-entropies, real numbers for mse. Half-precision outputs
are summed in float32. The reduction "mean" divides the sum by N, whatever the number of classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastalign.engine.graph import leaf_of, nodes_behind
from fastalign.ops.schemas import kernels
from fastalign.rules.base import ErrorScale

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Softmax and cross-entropy: −Σ_n log ŷ_n[label_n], ŷ = softmax(a_L)."""
    outputs = _at_least_float32(outputs)
    are_targets = labels.is_floating_point() or labels.shape == outputs.shape
    return F.cross_entropy(outputs, _target(labels, outputs) if are_targets else labels.long(), reduction="sum")


def binary_cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Logistic outputs and binary cross-entropy, summed over the classes: ŷ = 1 / (1 + exp(−a_L))."""
    outputs = _at_least_float32(outputs)
    return F.binary_cross_entropy_with_logits(outputs, _target(labels, outputs), reduction="sum")


def mse(outputs: Tensor, labels: Tensor) -> Tensor:
    """Half the squared error, summed over the classes: ½ Σ (ŷ − y)², ŷ = a_L."""
    outputs = _at_least_float32(outputs)
    return F.mse_loss(outputs, _target(labels, outputs), reduction="sum") / 2


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


def _target(labels: Tensor, outputs: Tensor) -> Tensor:
    """Return the labels as a target of each output."""
    if labels.shape == outputs.shape:
        return labels.to(outputs.dtype)
    if labels.shape == outputs.shape[:1] and outputs.dim() == 2 and not labels.is_floating_point():
        return torch.zeros_like(outputs).scatter_(1, labels.long().unsqueeze(1), 1)
    raise ValueError(
        f"labels: expected class indices of shape ({outputs.shape[0]},) or targets shaped like the outputs, "
        f"{tuple(outputs.shape)}, got {labels.dtype} of shape {tuple(labels.shape)}"
    )


LossAndGradients = tuple[Tensor, Tensor | None, dict[Tensor, Tensor]]


def loss_and_gradients(loss: str | Loss, reduction: str = "mean") -> Callable[[Tensor, Tensor], LossAndGradients]:
    """A function of (outputs, labels), outside of autograd, that returns the loss and what it has gradients of.

    These are ∂loss/∂outputs, None where the loss does not depend on them, then the gradients by tensor of all else that
    a callable's loss depends on: parameters of its own, or those of the network, as in a penalty on weights.

    loss: the name of one, in this reduction over the batch, or a callable that returns a scalar.

    Raises:
        ValueError: for another name.
    """
    by_name = isinstance(loss, str)
    function = _reduced(loss_named(loss), reduction) if isinstance(loss, str) else loss

    def differentiate(outputs: Tensor, labels: Tensor) -> LossAndGradients:
        if loss == "cross_entropy" and labels.dim() == 1 and not labels.is_floating_point():
            return (*kernels.cross_entropy(outputs, labels.long(), reduction == "mean"), {})
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            value = function(leaf, labels)
            depends_on_more = not by_name or labels.requires_grad
            below = map(leaf_of, nodes_behind(value)) if depends_on_more else ()
            others = [other for other in below if other is not None and other is not leaf]
            gradient, *found = torch.autograd.grad(value, [leaf, *others], allow_unused=bool(others))
        return value.detach(), gradient, {p: g for p, g in zip(others, found, strict=True) if g is not None}

    return differentiate


def _reduced(loss: Loss, reduction: str) -> Loss:
    return loss if reduction == "sum" else lambda outputs, labels: loss(outputs, labels) / len(labels)
