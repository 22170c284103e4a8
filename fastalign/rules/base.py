"""What a rule is, and what it sees of a network during one step.

A rule turns the error of the output into updates ΔW = scale · Σ post ⊗ pre, one layer after another. It never touches
`.grad`, an optimizer or a loss: a sink does with the updates what it likes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

ErrorScale = float | Callable[[int], float] | None


class Layer(Protocol):
    """A layer l as one step sees it, after the standard pass."""

    @property
    def trainable(self) -> bool:
        """Whether anything of the layer wants an update."""

    @property
    def feedback(self) -> Tensor | None:
        """The fixed matrix of this layer, as its rule asked for it."""

    @property
    def weight(self) -> Tensor:
        """W_l."""

    @property
    def is_linear(self) -> bool:
        """Whether it is a linear layer."""

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution."""

    @property
    def input(self) -> Tensor:
        """h_{l−1}."""

    @property
    def positions(self) -> int:
        """How many products per sample an update sums: Ho·Wo of a convolution, 1 of a linear layer."""

    def delta(self, signal: Tensor, matrix: Tensor | None) -> Tensor:
        """δ_l = (signal · matrixᵀ) ⊙ f′(a_l), the signal (N, S) entering at the layer's output, after its pooling."""

    def delta_through(self, above: Layer, delta: Tensor, matrix: Tensor | None = None) -> Tensor:
        """δ_l = (δ_{l+1} · W_{l+1}) ⊙ f′(a_l), or with a matrix in place of W_{l+1}; through a block by autograd."""

    def input_signal(self, delta: Tensor, matrix: Tensor | None = None) -> Tensor:
        """δ_l · W_l, or a matrix in its place: the signal at the layer's input."""

    def preactivation(self) -> Tensor:
        """a_l, of the output layer or where the rule keeps preactivations."""

    def activity(self) -> Tensor:
        """h_l, after the activation and before pooling; a_l where no activation follows the layer directly."""

    def preactivation_difference(self, delta_input: Tensor) -> Tensor:
        """Δa_l = W_l Δh_{l−1}."""

    def difference(self, delta_input: Tensor, matrix: Tensor | None = None) -> Tensor:
        """Δh_l = f(a_l + W_l Δh_{l−1}) − f(a_l), before pooling, or with a matrix in place of W_l."""

    def modulated_input(self, difference: Tensor) -> Tensor:
        """h_{l−1}^mod = h_{l−1} + Δh_{l−1}, which may take the place of h_{l−1}: the last that is asked of it."""

    def pass_on(self, difference: Tensor) -> Tensor:
        """Δh_l as the next layer receives it: taken through pooling and whatever else follows."""


class Step(Protocol):
    """One step of a network: the standard pass is over, the error is known."""

    error_scale: float
    """s, which makes e the error of a sample."""
    input_shape: torch.Size
    """The shape of x = h_0, as the network got it."""

    @property
    def error(self) -> Tensor:
        """e = s · ∂loss/∂a_L, with as many units as the output: of what pooling after a_L gives, where there is any."""

    @property
    def projection(self) -> Tensor:
        """F (D, C)."""

    @property
    def target(self) -> Tensor:
        """y* (N, C), one-hot."""

    def feedback_terms(self, signal: Tensor, layers: Iterable[Layer]) -> Iterable[tuple[Layer, Tensor]]:
        """Each layer with its δ_l = (signal · B_lᵀ) ⊙ f′(a_l)."""

    def first_input_difference(self, modulation: Tensor) -> Tensor:
        """Δh_0 as the first layer receives it, for a modulation of the input."""

    def folded_projection(self) -> Tensor | None:
        """W_1 F (n_1, C), where a linear first layer makes Δa_1 = (W_1 F) e less work than W_1 (F e)."""


class Update(NamedTuple):
    """ΔW = scale · Σ post ⊗ pre of one layer, and Δb = scale · Σ post unless it leaves the bias."""

    layer: Layer
    post: Tensor
    pre: Tensor
    scale: float = 1.0
    with_bias: bool = True


class Rule:
    """A learning rule. Its attributes say what it needs; its generator says what it does."""

    name: str
    whole_network = False
    """Whether it must be the rule of all layers: its pass over the network cannot be cut."""
    takes_sample_error = False
    """Whether it is not linear in e and so needs the error of a sample: it then has an `error_scale`."""
    needs_target = False
    passes_through_layers = False
    """Whether the δ of the layer above goes back through this layer's weights, or a matrix in their place."""
    defines_input_gradient = False
    updates_in_parts = False
    """Whether a layer may have several updates, which add up."""
    keeps_preactivations = False
    takes_slices = False
    """Whether, as a rule of the whole network, it can go over slices of the samples, all of a layer before the next:
    the updates of slices add up, and it asks for the output layer's activities after the hidden ones."""
    error_scale: ErrorScale = None

    def sample_error_scale(self, batch: int, of_loss: ErrorScale = None) -> float:
        """s, which makes s · ∂loss/∂a_L the error of a sample: the rule's, else the loss's, else N, that of a mean."""
        if not self.takes_sample_error:
            return 1.0
        scale = of_loss if self.error_scale is None else self.error_scale
        if scale is None:
            return float(max(batch, 1))
        return float(scale(batch) if callable(scale) else scale)

    def updates(self, step: Step, layers: Sequence[Layer], above: Update) -> Iterator[Update]:
        """The updates of a run of hidden layers; `above` is the update of the layer over them (post = its δ).

        A rule of the whole network gets all hidden layers and yields the output layer's update too. Rules that do not
        pass through layers go over them once, in order: each layer's activities may be computed when it is reached.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        arguments = inspect.signature(type(self)).parameters
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in arguments if hasattr(self, name))
        return f"{type(self).__name__}({settings})"


def check_error_scale(error_scale: ErrorScale) -> ErrorScale:
    """The error scale, if it is one: a positive number, a callable of the batch size, or None."""
    if error_scale is None or callable(error_scale):
        return error_scale
    if isinstance(error_scale, bool) or not isinstance(error_scale, int | float):
        raise TypeError(f"error_scale: expected a number or a callable of the batch size, got {error_scale!r}")
    if not error_scale > 0:
        raise ValueError(f"error_scale: expected a positive number, got {error_scale!r}")
    return error_scale


def check_choice(argument: str, value: str, choices: Sequence[str]) -> str:
    """The value, if it is one of the choices."""
    if value not in choices:
        raise ValueError(f"{argument}: expected one of {', '.join(choices)}, got {value!r}")
    return value
