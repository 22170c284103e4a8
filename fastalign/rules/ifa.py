"""Indirect feedback alignment (Nøkland 2016, eq. 9)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastalign.rules.base import Layer, Rule, Step, Update, check_choice
from fastalign.rules.feedback import DISTRIBUTIONS


class IFA(Rule):
    """δ_1 = (B_1 e) ⊙ f′(a_1), then forward: δ_l = (W_l δ_{l−1}) ⊙ f′(a_l), W_l live (Nøkland 2016, eq. 9).

    Dense layers only.

    Args:
        feedback: how B_1 is drawn (`fastalign.rules.feedback`); U(±1/√n_1) by default.

    Raises:
        ValueError: for an unknown name.
    """

    name = "ifa"
    whole_network = True

    def __init__(self, feedback: str = "uniform-fan-out") -> None:
        self.feedback = check_choice("feedback", feedback, DISTRIBUTIONS)

    def updates(self, step: Step, layers: Sequence[Layer], above: Update) -> Iterator[Update]:
        yield above
        del above  # with its input, before there are others
        delta = step.error.flatten(1)
        for layer in layers:
            delta = layer.delta(delta, layer.weight if layer.feedback is None else layer.feedback)
            yield Update(layer, delta, layer.input)
