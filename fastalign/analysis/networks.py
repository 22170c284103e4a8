"""What analyses ask of a network. A layer's number l counts from 1; 0 stands for the input."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fastalign.engine.plan import Stage, make_plan
from fastalign.engine.sequential import described


def stages_of(network: torch.nn.Sequential) -> list[Stage]:
    """What stands before the first layer, then layer 1, 2, …, each with what follows it.

    Raises:
        TypeError: another module, whose children need not be its forward pass.
    """
    if not isinstance(network, torch.nn.Sequential):
        raise TypeError(f"network: expected a fastalign.nn.Sequential, got {described(network)}")
    return make_plan(network.children())


def weights_of(network: torch.nn.Sequential) -> dict[int, list[Tensor]]:
    """By layer, its weight matrix or kernel, or all those of a block; biases and other vectors are left out."""
    weights = {
        number: [p for p in stage.parameters() if p.dim() > 1] for number, stage in enumerate(stages_of(network))
    }
    return {number: matrices for number, matrices in weights.items() if matrices}


def weight_norms(network: torch.nn.Sequential) -> dict[int, float]:
    """By layer, the Frobenius norm √(Σ w²) of its weights."""
    return {
        number: math.sqrt(sum(matrix.detach().double().square().sum().item() for matrix in matrices))
        for number, matrices in weights_of(network).items()
    }


@torch.no_grad()
def activities(network: torch.nn.Sequential, x: Tensor) -> dict[int, Tensor]:
    """By layer, its activity as the next layer receives it, (N, ...), in evaluation mode: 0 is x, L the output."""
    found = {}
    with evaluated(network):
        for number, stage in enumerate(stages_of(network)):
            x = stage.run(x)
            found[number] = x
    return found


@contextmanager
def evaluated(network: torch.nn.Module) -> Iterator[None]:
    """The network in evaluation mode for the time of the block: no dropout, no statistics that move."""
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
