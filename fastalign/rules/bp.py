"""Backpropagation (Nøkland 2016, eq. 6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastalign.rules.base import Layer, Rule, Step, Update


class BP(Rule):
    """δ_l = (W_{l+1}ᵀ δ_{l+1}) ⊙ f′(a_l): the gradient (Nøkland 2016, eq. 6)."""

    name = "bp"
    passes_through_layers = True
    defines_input_gradient = True

    def updates(self, step: Step, layers: Sequence[Layer], above: Update) -> Iterator[Update]:
        delta, upper = above.post, above.layer
        for layer in reversed(layers):
            delta = layer.delta_through(upper, delta)
            yield Update(layer, delta, layer.input)
            upper = layer
