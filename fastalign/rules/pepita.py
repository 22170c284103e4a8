"""PEPITA: present the error to perturb the input to modulate activity (Dellaferrera & Kreiman 2022).

The second pass carries Δh = h_mod − h in place of h_mod: the same number in exact arithmetic, without the loss of
digits of a small difference of large numbers, and without the largest matrix product of the pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fastalign.ops.schemas import kernels
from fastalign.rules.base import ErrorScale, Layer, Rule, Step, Update, check_choice, check_error_scale
from fastalign.rules.feedback import DISTRIBUTIONS


class PEPITA(Rule):
    """ΔW_l = (h_l − h_l^mod) (h_{l−1}^mod)ᵀ / N, h^mod the activities of a second pass on x + F e (D&K 2022, eqs 1–6).

    The output layer: ΔW_L = e (h_{L−1}^mod)ᵀ / N. A convolution averages over positions too (§3.3).

    h_l is what the activation right after the layer gives. Where anything but nn.Identity stands between the two
    (pooling, BatchNorm, a module that only prints), or no activation follows, the update compares a_l instead: another
    rule for a network that computes the same. Conv2d, ReLU, MaxPool2d is the paper's order. What h_l goes through on
    its way to the next layer must give the same twice: BatchNorm is in eval mode, and no Dropout but the chain's own.

    Args:
        presynaptic: "modulated" (h_{l−1}^mod) or "standard" (h_{l−1}; §3.2, App. E).
        output_error: "standard", e as in the paper, or "modulated", e_mod = e + σ(a_L + Δa_L) − σ(a_L) as in its code.
        output: σ for a modulated output error: "softmax", "logistic" or "identity".
        sign: of the modulation, x + sign · F e.
        divisor: of a convolution's sum over P positions: "mean" (P), "sqrt" (√P) or "authors" (P·N and the opposite
            sign, as in the published code).
        update: "difference", or "hebbian" for h_l h_{l−1}ᵀ − h_l^mod (h_{l−1}^mod)ᵀ.
        sign_of_error: modulate by F · sign(e) / 10.
        random_modulation: α, to modulate by α r in place of F e, r ~ U[0, 1) for each sample and step (the control).
        frozen_filters: leave convolutions as they are (the control for every PEPITA convolution result).
        projection: how F is drawn (`fastalign.rules.feedback`), times projection_scale: 0.05 · U(±√(6/n_0)) by default.
        error_scale: s, see `Rule.sample_error_scale`; all updates carry 1/s, which is the paper's 1/N. Give it where
            the loss is no mean: a sum (1), divided by k for accumulation (`lambda n: k * n`), under a GradScaler
            (`lambda n: n / scaler.get_scale()`).

    Raises:
        ValueError, TypeError: for a setting that is not one.
    """

    name = "pepita"
    whole_network = True
    takes_sample_error = True
    keeps_preactivations = True

    def __init__(
        self,
        presynaptic: str = "modulated",
        output_error: str = "standard",
        output: str = "softmax",
        sign: float = 1.0,
        divisor: str = "mean",
        update: str = "difference",
        sign_of_error: bool = False,
        random_modulation: float | None = None,
        frozen_filters: bool = False,
        projection: str = "he-uniform",
        projection_scale: float = 0.05,
        error_scale: ErrorScale = None,
    ) -> None:
        self.presynaptic = check_choice("presynaptic", presynaptic, ("modulated", "standard"))
        self.output_error = check_choice("output_error", output_error, ("standard", "modulated"))
        self.output = check_choice("output", output, ("softmax", "logistic", "identity"))
        self.sign = float(sign)
        self.divisor = check_choice("divisor", divisor, ("mean", "sqrt", "authors"))
        self.update = check_choice("update", update, ("difference", "hebbian"))
        self.updates_in_parts = update == "hebbian"
        self.takes_slices = not self.updates_in_parts
        if update == "hebbian" and presynaptic == "standard":
            raise ValueError("presynaptic: the hebbian update has h_{l−1} and h_{l−1}^mod both; expected 'modulated'")
        self.sign_of_error = sign_of_error
        self.random_modulation = None if random_modulation is None else float(random_modulation)
        self.frozen_filters = frozen_filters
        self.projection = check_choice("projection", projection, DISTRIBUTIONS)
        self.projection_scale = float(projection_scale)
        self.error_scale = check_error_scale(error_scale)

    def updates(self, step: Step, layers: Sequence[Layer], above: Update) -> Iterator[Update]:
        error = step.error.flatten(1)
        signal = self._signal(step, error)
        output, post = above.layer, above.post
        del above  # with its input, before there are others

        delta_input: Tensor | None = None
        for layer in layers:
            if delta_input is None:
                difference, pre = self._first(step, layer, signal)
            else:
                difference = layer.difference(delta_input)
                pre = self._presynaptic(layer, delta_input)
            updates: list[Update] = []
            if not (self.frozen_filters and layer.is_convolution):
                scale = self._scale(step, layer)
                updates.append(Update(layer, difference, pre, scale))
                if self.update == "hebbian":
                    # h ⊗ Δh_{l−1}, the rest of the split; a bias sees 1 in both passes, so nothing of it.
                    pre = self._input_difference(step, signal, delta_input, layer)
                    updates.append(Update(layer, layer.activity(), pre, scale, with_bias=False))
            delta_input = layer.pass_on(difference)
            del difference, pre  # so that what takes an update is the last to have its terms
            while updates:
                yield updates.pop(0)

        if delta_input is None:
            delta_input = step.first_input_difference(self._modulation(step, signal))
        if self.output_error == "modulated":
            post = error + self._output_difference(output, delta_input)
            post = post.reshape(step.error.shape)
        yield Update(output, post, self._presynaptic(output, delta_input), 1 / step.error_scale)

    def _first(self, step: Step, layer: Layer, signal: Tensor) -> tuple[Tensor, Tensor]:
        """Δh_1 and its presynaptic term."""
        folded = step.folded_projection() if self.random_modulation is None else None
        if folded is None:
            delta_input = step.first_input_difference(self._modulation(step, signal))
            return layer.difference(delta_input), self._presynaptic(layer, delta_input)
        if self.sign != 1:
            folded = folded * self.sign
        difference = layer.difference(signal, folded)
        if self.presynaptic == "standard":
            return difference, layer.input
        pre = kernels.modulate_input(layer.input, signal, step.projection.to(layer.input.dtype), self.sign)
        return difference, pre

    def _input_difference(self, step: Step, signal: Tensor, delta_input: Tensor | None, layer: Layer) -> Tensor:
        if delta_input is None:
            delta_input = step.first_input_difference(self._modulation(step, signal))
        return delta_input.reshape(layer.input.shape)

    def _signal(self, step: Step, error: Tensor) -> Tensor:
        """What F takes to the input, (N, C); with a random modulation that itself, (N, D)."""
        if self.random_modulation is not None:
            size = step.input_shape[1:].numel()
            return error.new_empty(error.shape[0], size).uniform_() * self.random_modulation
        return error.sign() * 0.1 if self.sign_of_error else error

    def _modulation(self, step: Step, signal: Tensor) -> Tensor:
        """sign · F e or sign · α r, shaped like x."""
        random = self.random_modulation is not None
        modulation = signal if random else signal @ step.projection.to(signal.dtype).T
        return (modulation * self.sign).reshape(step.input_shape)

    def _presynaptic(self, layer: Layer, difference: Tensor) -> Tensor:
        return layer.input if self.presynaptic == "standard" else layer.modulated_input(difference)

    def _scale(self, step: Step, layer: Layer) -> float:
        """The factor of Δh_l ⊗ pre: h − h_mod = −Δh, over s and over the positions of a convolution."""
        positions = layer.positions
        if self.divisor == "sqrt":
            return -1 / (step.error_scale * math.sqrt(positions))
        if self.divisor == "authors" and layer.is_convolution:
            return 1 / (step.error_scale * positions * max(step.error.shape[0], 1))
        return -1 / (step.error_scale * positions)

    def _output_difference(self, output: Layer, delta_input: Tensor) -> Tensor:
        """σ(a_L + Δa_L) − σ(a_L), (N, C)."""
        preactivation = output.preactivation().flatten(1)
        modulated = preactivation + output.preactivation_difference(delta_input).flatten(1)
        if self.output == "softmax":
            return torch.softmax(modulated, 1) - torch.softmax(preactivation, 1)
        if self.output == "logistic":
            return torch.sigmoid(modulated) - torch.sigmoid(preactivation)
        return modulated - preactivation
