"""Initial weights of both papers, by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

_BOUNDS: dict[str, Callable[[int], tuple[float, float]]] = {
    "zero": lambda fan_in: (0.0, 0.0),
    "uniform-fan-in": lambda fan_in: (1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in)),
    "he-uniform": lambda fan_in: (math.sqrt(6 / fan_in), 0.0),
}
INITIALISATIONS = tuple(_BOUNDS)


def draw_weight(name: str, weight: Tensor) -> Tensor:
    """A tensor like `weight`, drawn by the named initialisation."""
    bound, _ = _bounds(name, weight)
    return torch.empty_like(weight, requires_grad=False).uniform_(-bound, bound)


def initialise(network: nn.Module, name: str) -> nn.Module:
    """Draw the weights and biases of every linear and convolutional layer anew; fixed matrices stay as they are.

    "zero": all zero (DFA and FA with tanh or logistic; Nøkland 2016, §5). "uniform-fan-in": U(±1/√fan_in), biases too
    (Nøkland 2016; torch's own default). "he-uniform": U(±√(6/fan_in)), biases zero (Dellaferrera & Kreiman 2022, §3).

    Raises:
        ValueError: for an unknown name.
    """
    if name not in _BOUNDS:
        raise ValueError(f"name: expected one of {', '.join(INITIALISATIONS)}, got {name!r}")
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                bound, bias_bound = _bounds(name, module.weight)
                module.weight.uniform_(-bound, bound)
                if module.bias is not None:
                    module.bias.uniform_(-bias_bound, bias_bound)
    return network


def _bounds(name: str, weight: Tensor) -> tuple[float, float]:
    return _BOUNDS[name](max(weight[0].numel(), 1))
