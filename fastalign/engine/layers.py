"""Layers with weights, each with its activation: torch's own, and fused inside a `Sequential` that has a rule."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from fastalign.ops import reference
from fastalign.ops.activations import Activation
from fastalign.rules import BP, Rule, named

_RUN_BY_NETWORK: ContextVar[torch.nn.Module | None] = ContextVar("_RUN_BY_NETWORK", default=None)


@contextmanager
def run_by_network(module: torch.nn.Module) -> Iterator[None]:
    """Mark the unit that a network with a rule is running, so its own rule counts as in effect."""
    token = _RUN_BY_NETWORK.set(module)
    try:
        yield
    finally:
        _RUN_BY_NETWORK.reset(token)


class RuledModule(torch.nn.Module):
    """A module that may have a rule of its own, which a `Sequential` with a rule runs."""

    @property
    def rule(self) -> Rule | None:
        """The rule of this layer, where it is another than its network's; the network's `set_rule` reads it."""
        rule: Rule | None = self.__dict__.get("rule")
        return rule

    @rule.setter
    def rule(self, rule: str | Rule | None) -> None:
        self.__dict__["rule"] = None if rule is None else named(rule)

    def _warn_unless_in_effect(self) -> None:
        """Say that the module, called by itself, learns by backpropagation, whatever its rule."""
        rule = self.rule
        if rule is None or isinstance(rule, BP) or not torch.is_grad_enabled() or _RUN_BY_NETWORK.get() is self:
            return
        if any(p.requires_grad for p in self.parameters()):
            warnings.warn(
                f"{type(self).__name__}: its rule {rule.name!r} is not in effect and it learns by backpropagation; a "
                "rule is run by a fastalign.nn.Sequential that has one (rule= or set_rule), for layers of its chain",
                stacklevel=3,
            )


def _settings(activation: str | Activation | None, rule: str | Rule | None) -> str:
    described = (
        "" if activation in (None, Activation.IDENTITY) else f", activation={Activation.named(activation).name.lower()}"
    )
    return described if rule is None else f"{described}, rule={rule!r}"


class Linear(RuledModule, torch.nn.Linear):
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
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        """f(x Wᵀ + b), differentiated by autograd."""
        self._warn_unless_in_effect()
        return reference.activate(super().forward(x), self.activation)

    def extra_repr(self) -> str:
        return super().extra_repr() + _settings(self.activation, self.rule)


class Conv2d(RuledModule, torch.nn.Conv2d):
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
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        """f(K ∗ x + b), differentiated by autograd."""
        self._warn_unless_in_effect()
        return reference.activate(super().forward(x), self.activation)

    def extra_repr(self) -> str:
        return super().extra_repr() + _settings(self.activation, self.rule)


class Block(RuledModule):
    """Any module as one unit of a network: backpropagation inside, the rule's signal at its output.

    Args:
        module: a residual block, attention, conv-BN-ReLU, …; it takes and returns one tensor.
        rule: the rule of this unit, where it is another than its network's.
    """

    def __init__(self, module: torch.nn.Module, rule: str | Rule | None = None) -> None:
        super().__init__()
        self.module = module
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        """The module's output, differentiated by autograd."""
        self._warn_unless_in_effect()
        return self.module(x)
