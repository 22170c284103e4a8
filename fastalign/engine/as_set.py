"""What `set_rule` found in a network, and must be called again for once it is another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastalign.engine.plan import Stage


@dataclass(frozen=True)
class NetworkAsSet:
    """A network as it was when its rule was set."""

    input_shape: tuple[int, ...] | None
    rules: list[object]
    """The rules that the layers have themselves."""
    weights: list[torch.Size | None]
    """The shape of each layer's weight; None for a block."""
    modules: frozenset[torch.nn.Module]
    """All that were in it."""

    @classmethod
    def of(cls, network: torch.nn.Module, input_shape: tuple[int, ...] | None, layers: Sequence[Stage]) -> NetworkAsSet:
        """Return what is to be remembered of a network."""
        rules, weights = own_rules([stage.layer for stage in layers]), [_weight_shape(stage) for stage in layers]
        return cls(input_shape, rules, weights, frozenset(network.modules()) - {network})

    def check_assigned(self, input_shape: tuple[int, ...] | None, layers: Sequence[Stage]) -> None:
        """Refuse a rule of a layer, or a shape of the input, that was assigned since.

        Raises:
            RuntimeError: naming it.
        """
        rules = own_rules([stage.layer for stage in layers])
        if rules != self.rules:
            number = next(i for i, (now, before) in enumerate(zip(rules, self.rules, strict=True)) if now is not before)
            raise RuntimeError(
                f"rule: that of layer {number}, {_described(layers[number])}, was assigned after the network's and is "
                "not in effect; call set_rule again"
            )
        if input_shape != self.input_shape:
            raise RuntimeError(
                f"input_shape: {input_shape} was assigned after the rule was set for {self.input_shape} and is not in "
                "effect; call set_rule again"
            )

    def check_replaced(self, layers: Sequence[Stage]) -> None:
        """Refuse a layer of another kind or size than the one for which a fixed matrix was drawn.

        A module that was there and whose forward has been replaced since learns as a block, under a rule that has them.

        Raises:
            RuntimeError: naming it.
        """
        for number, (stage, shape) in enumerate(zip(layers, self.weights, strict=True)):
            has_become_block = stage.native is None and stage.layer in self.modules
            if _weight_shape(stage) != shape and not has_become_block:
                before = "a block" if shape is None else f"a weight of {tuple(shape)}"
                raise RuntimeError(
                    f"Sequential: layer {number}, {_described(stage)}, came after the rule was set, and the fixed "
                    f"matrix was drawn for {before}; call set_rule again"
                )


def own_rules(layers: Sequence[torch.nn.Module | None]) -> list[object]:
    """Return the rules that the layers have themselves."""
    # NOTE: read from the dictionaries, without a call for each layer, because every step looks at it.
    return [vars(layer).get("rule") for layer in layers]


def _weight_shape(stage: Stage) -> torch.Size | None:
    return None if stage.native is None else stage.native.weight.shape


def _described(stage: Stage) -> str:
    return type(stage.layer).__name__ if stage.native is None else str(stage.native)
