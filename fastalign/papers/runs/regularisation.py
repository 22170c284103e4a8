"""Nøkland's regularisers, as the published code (dfa-torch) has them: adversarial batches and bounded norms."""

from __future__ import annotations

import torch
from torch import Tensor

from fastalign.nn import Sequential
from fastalign.step import Loss


def adversarial(network: Sequential, images: Tensor, labels: Tensor, loss: Loss, epsilon: float) -> Tensor:
    """x + ε sign(∂loss/∂x), like images: the fast-sign batch that is trained on in place of x (Nøkland 2016, §5).

    The gradient is backpropagation's whatever the network's rule, and nothing is clipped to the range of pixels.
    """
    gradient = network.input_gradient(images, lambda outputs: loss(outputs, labels))
    return images.add(gradient.sign_(), alpha=epsilon)


@torch.no_grad()
def limit_norms(network: Sequential, largest: tuple[float, float]) -> None:
    """Scale down the weights whose Euclidean norm is too large: those into a unit, then those out of an input.

    largest: of the norm of each weight[i] (the first dimension: units or filters), and of each weight[…, i] (the last
    one: inputs, for a convolution its columns). Biases are free.
    """
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.renorm_(2, 0, largest[0]).renorm_(2, -1, largest[1])
