"""Direct random target projection (Frenkel et al. 2019, arXiv 1909.01311)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastalign.rules.base import ErrorScale, Layer, Rule, Step, Update, check_choice, check_error_scale
from fastalign.rules.feedback import DISTRIBUTIONS


class DRTP(Rule):
    """δ_l = (B_l y*) ⊙ f′(a_l), y* the one-hot target, B_l fixed (Frenkel et al. 2019).

    While training the network is called with the target: `net(x, target)`.

    Args:
        feedback: how B_l is drawn (`fastalign.rules.feedback`); U(±√(6/n_l)) by default.
        error_scale: s; the signal is y*/s (by default s = N, so that hidden updates are means over the batch). Give it
            where the loss is no mean: a sum (1), divided by k for accumulation (`lambda n: k * n`), under a GradScaler
            (`lambda n: n / scaler.get_scale()`). The signal has no other way to know of that.

    Raises:
        ValueError, TypeError: for a setting that is not one.
    """

    name = "drtp"
    takes_sample_error = True
    needs_target = True

    def __init__(self, feedback: str = "he-uniform", error_scale: ErrorScale = None) -> None:
        self.feedback = check_choice("feedback", feedback, DISTRIBUTIONS)
        self.error_scale = check_error_scale(error_scale)

    def updates(self, step: Step, layers: Sequence[Layer], above: Update) -> Iterator[Update]:
        signal = step.target * (1 / step.error_scale)
        for layer, delta in step.feedback_terms(signal, layers):
            yield Update(layer, delta, layer.input)
            del delta  # before the next one is made
