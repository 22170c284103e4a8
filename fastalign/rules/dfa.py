"""Direct feedback alignment (Nøkland 2016, eq. 8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastalign.rules.base import ErrorScale, Layer, Rule, Step, Update, check_choice, check_error_scale
from fastalign.rules.feedback import DISTRIBUTIONS


class DFA(Rule):
    """δ_l = (B_l e) ⊙ f′(a_l), B_l fixed (Nøkland 2016, eq. 8).

    Args:
        feedback: how B_l is drawn (`fastalign.rules.feedback`); U(±1/√n_l) by default.
        shared_feedback: one matrix for all layers, each taking its first n_l rows (Launay et al. 2020).
        sign_of_error: project sign(e) in place of e (sDFA; Frenkel et al. 2019).
        error_scale: s, with sign_of_error: see `Rule.sample_error_scale`. Give it where the loss is no mean: a sum (1),
            divided by k for accumulation (`lambda n: k * n`), under a GradScaler (`lambda n: n / scaler.get_scale()`).

    Raises:
        ValueError, TypeError: for a setting that is not one.
    """

    name = "dfa"

    def __init__(
        self,
        feedback: str = "uniform-fan-out",
        shared_feedback: bool = False,
        sign_of_error: bool = False,
        error_scale: ErrorScale = None,
    ) -> None:
        self.feedback = check_choice("feedback", feedback, DISTRIBUTIONS)
        self.shared_feedback = shared_feedback
        self.sign_of_error = sign_of_error
        self.error_scale = check_error_scale(error_scale)
        if error_scale is not None and not sign_of_error:
            raise ValueError(
                "error_scale: DFA is linear in e and takes it as it comes; expected None, unless sign_of_error"
            )
        self.takes_sample_error = sign_of_error

    def updates(self, step: Step, layers: Sequence[Layer], above: Update) -> Iterator[Update]:
        signal = step.error.flatten(1)
        if self.sign_of_error:
            signal = signal.sign() / step.error_scale
        for layer, delta in step.feedback_terms(signal, layers):
            yield Update(layer, delta, layer.input)
            del delta  # before the next one is made
