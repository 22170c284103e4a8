"""Feedback alignment (Nøkland 2016, eq. 7; Lillicrap et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastalign.rules.base import Layer, Rule, Step, Update, check_choice
from fastalign.rules.initialisation import INITIALISATIONS


class FA(Rule):
    """δ_l = (B_{l+1}ᵀ δ_{l+1}) ⊙ f′(a_l), B_{l+1} fixed and of the shape of W_{l+1} (Nøkland 2016, eq. 7).

    Args:
        feedback: "weights", a copy of W_{l+1} as it is when the rule is set (Nøkland 2016: before zeroing them),
            or the name of an initialisation to draw from ("uniform-fan-in", "he-uniform").

    Raises:
        ValueError: for an unknown name.
    """

    name = "fa"
    passes_through_layers = True

    def __init__(self, feedback: str = "weights") -> None:
        names = (name for name in INITIALISATIONS if name != "zero")
        self.feedback = check_choice("feedback", feedback, ("weights", *names))

    def updates(self, step: Step, layers: Sequence[Layer], above: Update) -> Iterator[Update]:
        delta, upper = above.post, above.layer
        for layer in reversed(layers):
            delta = layer.delta_through(upper, delta, layer.feedback)
            yield Update(layer, delta, layer.input)
            upper = layer
