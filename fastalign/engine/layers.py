"""Layers with weights, each with its activation: torch's own, and fused inside a `Sequential` that has a rule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastalign.ops import reference
from fastalign.ops.activations import Activation
from fastalign.rules import Rule, named


def _settings(activation: str | Activation | None, rule: str | Rule | None) -> str:
    described = (
        "" if activation in (None, Activation.IDENTITY) else f", activation={Activation.named(activation).name.lower()}"
    )
    return described if rule is None else f"{described}, rule={rule!r}"


class Linear(torch.nn.Linear):
    """h = f(x Wᵀ + b): torch.nn.Linear with an activation.

    Args:
        in_features, out_features, bias, device, dtype: as for torch.nn.Linear.
        activation: the name of f (identity by default).
        rule: the rule of this layer, where it is another than its network's.

    Raises:
        ValueError, TypeError: for an unknown activation or rule.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: str | Activation | None = None,
        rule: str | Rule | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.activation = Activation.named(activation)
        self.rule = None if rule is None else named(rule)

    def forward(self, x: Tensor) -> Tensor:
        """f(x Wᵀ + b), differentiated by autograd."""
        return reference.activate(super().forward(x), self.activation)

    def extra_repr(self) -> str:
        return super().extra_repr() + _settings(self.activation, self.rule)


class Conv2d(torch.nn.Conv2d):
    """h = f(K ∗ x + b): torch.nn.Conv2d with an activation.

    Args:
        activation: the name of f (identity by default).
        rule: the rule of this layer, where it is another than its network's.
        All others: as for torch.nn.Conv2d.

    Raises:
        ValueError, TypeError: for an unknown activation or rule.
    """

    def __init__(
        self, *args: Any, activation: str | Activation | None = None, rule: str | Rule | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.activation = Activation.named(activation)
        self.rule = None if rule is None else named(rule)

    def forward(self, x: Tensor) -> Tensor:
        """f(K ∗ x + b), differentiated by autograd."""
        return reference.activate(super().forward(x), self.activation)

    def extra_repr(self) -> str:
        return super().extra_repr() + _settings(self.activation, self.rule)


class Block(torch.nn.Module):
    """Any module as one unit of a network: backpropagation inside, the rule's signal at its output.

    Args:
        module: a residual block, attention, conv-BN-ReLU, …; it takes and returns one tensor.
        rule: the rule of this unit, where it is another than its network's.
    """

    def __init__(self, module: torch.nn.Module, rule: str | Rule | None = None) -> None:
        super().__init__()
        self.module = module
        self.rule = None if rule is None else named(rule)

    def forward(self, x: Tensor) -> Tensor:
        """The module's output, differentiated by autograd."""
        return self.module(x)
