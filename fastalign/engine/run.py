"""One step of a network under its rules: the autograd Function, and the step as a rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from fastalign.engine.again import output_again
from fastalign.engine.compiler import uncompiled
from fastalign.engine.hooks import undifferentiable
from fastalign.engine.passes import LayerPass, as_pass, gradients_at_once
from fastalign.engine.plan import Stage
from fastalign.engine.tape import Keep, Tape
from fastalign.ops.autocast import autocasts
from fastalign.ops.schemas import kernels
from fastalign.ops.transforms import is_batched
from fastalign.rules import BP, RULES, Layer, Rule, Update
from fastalign.rules.base import ErrorScale

CACHED = 1 << 20
"""Bytes of δ that a core's cache holds until their updates are taken."""


class NetworkStep:
    """A network during one step; to its rules a `fastalign.rules.Step`."""

    def __init__(
        self,
        stages: Sequence[Stage],
        rules: Sequence[Rule],
        feedback: Sequence[Tensor | None],
        projection: Tensor | None,
        target: Tensor | None,
    ) -> None:
        self._tape = Tape()
        self._rules = rules
        self._target = target
        self._projection = projection
        self._feedback = feedback
        self._folds_projection = False
        self._delta: Tensor | None = None
        self.wants_input_gradient = False
        self.loss_error_scale: ErrorScale = None
        """s of the loss, where that is known, for rules that have none of their own."""
        self.forms_delta: Callable[[LayerPass], bool] | None = None
        """Whether what takes the updates forms a layer's δ itself, from a `FeedbackTerm`; None: it never does."""
        self.adds_up: Callable[[LayerPass, Tensor], bool] | None = None
        """Whether it adds up a layer's updates of slices of the samples, whose terms are like a tensor; None: never."""
        self._prelude, *self.layers = [LayerPass(stage, self._tape) for stage in stages]

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters of all layers, each once."""
        return list(dict.fromkeys(p for layer in self.layers for p in layer.parameters))

    @property
    def fixed_matrices(self) -> list[Tensor]:
        """B of each layer that has one, and F."""
        return [matrix for matrix in (*self._feedback, self._projection) if matrix is not None]

    @property
    def shares_parameters(self) -> bool:
        """Whether a parameter stands in several places."""
        places = [p for layer in self.layers for p in layer.parameters]
        return len(set(places)) < len(places)

    @property
    def runs_own_code(self) -> bool:
        """Whether modules or rules that are not torch's or this library's take part."""
        return any(stage.runs_own_code for stage in self.stages) or not all(
            type(rule) in RULES.values() for rule in self._rules
        )

    @property
    def backpropagates(self) -> bool:
        """Whether its updates are the loss's derivatives."""
        return all(type(rule) is BP for rule in self._rules)

    @property
    def stages(self) -> list[Stage]:
        """The stages of its plan, in order."""
        return [layer.stage for layer in (self._prelude, *self.layers)]

    def describe_rules(self) -> str:
        """Its rules, each once."""
        return ", ".join(dict.fromkeys(map(repr, self._rules)))

    # The standard pass

    def forward(self, x: Tensor, keep: bool = True) -> Tensor:
        """The network's output; with `keep` everything that the rules will ask for is kept."""
        h = self._prelude.forward(x, self._keep_prelude() if keep else Keep.NOTHING)
        sends_signal = x.requires_grad
        if self._projection is not None and keep:
            first = self.layers[0]
            direct = first.is_linear and self._prelude.only_reshapes and h.dim() == 2
            self._folds_projection = direct and h.shape[0] > self._projection.shape[1]
            first.rows_beside = self._projection.T if self._folds_projection else None
        for layer, rule in zip(self.layers, self._rules, strict=True):
            layer.sends_signal, sends_signal = sends_signal, rule.passes_through_layers
            layer.updates_at_once = not (rule.passes_through_layers or rule.whole_network)
            h = layer.forward(h, self._keep(layer, rule) if keep else Keep.NOTHING)
        if not keep:
            return h
        self._keep_feedback(x)
        self.input_shape = x.shape
        self._projection_slot = -1 if self._projection is None else self._tape.keep(self._projection)
        # As with x, autograd then notices a target that is overwritten before backward.
        self._target_slot = -1 if self._target is None else self._tape.keep(self._target)
        return h

    def _keep_feedback(self, x: Tensor) -> None:
        """Keep the fixed matrices, which were drawn for layers and samples of certain sizes."""
        classes = self.layers[-1].output_shape[1:].numel()
        for i, matrix in enumerate(self._feedback):
            layer = self.layers[i]
            if matrix is not None:
                through = self._rules[i].passes_through_layers
                fitting = self.layers[i + 1].weight.shape if through else (layer.output_shape[1:].numel(), classes)
                _check_fits(matrix, tuple(fitting), x, layer)
            layer.keep_feedback(matrix)
        if self._projection is not None:
            _check_fits(self._projection, (x.shape[1:].numel(), classes), x, self.layers[-1])

    def _keep(self, layer: LayerPass, rule: Rule) -> Keep:
        if not rule.keeps_preactivations:
            return Keep.FOR_GRADIENT
        layer.check_plain()
        return Keep.FOR_BOTH if layer is self.layers[-1] else Keep.FOR_DIFFERENCE

    def _keep_prelude(self) -> Keep:
        return Keep.FOR_DIFFERENCE if self._rules[0].keeps_preactivations else Keep.FOR_GRADIENT

    def release(self) -> list[Tensor]:
        """The kept tensors, for autograd to hold."""
        return self._tape.release()

    # The rules

    def updates(self, kept: tuple[Tensor, ...], output_gradient: Tensor) -> Iterator[Update]:
        """The updates of all layers for a gradient ∂loss/∂output.

        Rules of the whole network run alone. Others may alternate: each run of layers with one rule starts from the
        δ of the layer above it, whichever rule made that.
        """
        self._tape.restore(kept)
        *hidden, output = self.layers
        self._sent, self._gradient = output.take_error_back(output_gradient)
        network_rule = self._rules[-1]
        self._scale_error(network_rule)
        if network_rule.whole_network:
            yield from network_rule.updates(self, hidden, self._output_update(output.input))
            return
        above = Update(output, self._gradient, output.input)
        yield above
        wanted = (i for i, layer in enumerate(hidden) if layer.trainable or self.wants_input_gradient)
        lowest = next(wanted, len(hidden))
        for rule, layers in reversed(runs_of(self._rules[lowest:-1], hidden[lowest:])):
            self._scale_error(rule)
            lowest_layer: Layer = layers[0]
            for update in rule.updates(self, layers, above):
                yield update
                if update.layer is lowest_layer:
                    above = update
        self._delta = above.post

    def gradients(self, kept: tuple[Tensor, ...], output_gradient: Tensor, wanted: bool = True) -> dict[Tensor, Tensor]:
        """The updates as gradients by parameter; none unless wanted, as where only the input asks for one."""
        gradients: dict[Tensor, Tensor] = {}

        def add(found: Iterable[tuple[Tensor, Tensor]]) -> None:
            for parameter, gradient in found:
                gradient = gradient.to(parameter.dtype)
                gradients[parameter] = gradients[parameter] + gradient if parameter in gradients else gradient

        together: list[Update] = []
        for update in self.updates(kept, output_gradient):
            layer = as_pass(update.layer)
            if wanted and layer.joins_others(update.pre):
                together.append(update)
            elif wanted:
                add(layer.gradients(*update[1:]).items())
        add(gradients_at_once(together))
        return gradients

    def _scale_error(self, rule: Rule) -> None:
        self.error_scale = rule.sample_error_scale(self._gradient.shape[0], self.loss_error_scale)
        self._error: Tensor | None = None

    @property
    def error(self) -> Tensor:
        if self._error is None:
            self._error = self._scaled(self._sent)
        return self._error

    def _output_update(self, pre: Tensor) -> Update:
        """The update of the output layer, for a rule of the whole network."""
        post = self.error if self._gradient is self._sent else self._scaled(self._gradient)
        return Update(self.layers[-1], post, pre, 1 / self.error_scale)

    def _scaled(self, gradient: Tensor) -> Tensor:
        return gradient if self.error_scale == 1 else gradient * self.error_scale

    def input_gradient(self) -> Tensor:
        """∂loss/∂x, once all updates were taken, where the rules define it."""
        assert self._delta is not None
        signal = self.layers[0].input_signal(self._delta)
        return self._prelude.take_back(signal.reshape(self._prelude.output_shape))

    def forget(self) -> None:
        """Let go of what a backward pass has left."""
        self._tape.release()
        self._delta = None
        for layer in (self._prelude, *self.layers):
            layer.forget()

    @property
    def projection(self) -> Tensor:
        return self._tape[self._projection_slot]

    @property
    def target(self) -> Tensor:
        if self._target_slot < 0:
            raise RuntimeError(
                "target: DRTP needs it for a backward pass, call net(x, target) in eval mode too; got None"
            )
        return self._tape[self._target_slot].to(self._gradient.dtype)

    def feedback_terms(self, signal: Tensor, layers: Iterable[Layer]) -> Iterable[tuple[Layer, Tensor]]:
        """Each layer with δ_l = (signal · B_lᵀ) ⊙ f′(a_l): in few calls where the layers are plain and alike.

        On a GPU one call is for all of them, on the CPU for as many as stay in the cache.
        """
        layers = list(layers)
        plain = [layer.plain_feedback() for layer in layers if isinstance(layer, LayerPass)]
        kinds = {None if term is None else term[2:] for term in plain}
        if len(plain) < 2 or len(kinds) > 1 or None in kinds:
            return [(layer, layer.delta(signal, layer.feedback)) for layer in layers]
        return self._terms_at_once(signal, layers, [term for term in plain if term is not None])

    def _terms_at_once(
        self, signal: Tensor, layers: Sequence[Layer], plain: Sequence[tuple[Tensor, Tensor, int, bool]]
    ) -> Iterator[tuple[Layer, Tensor]]:
        matrices, kept, (activation, *_), (given_output, *_) = zip(*plain, strict=True)
        first = 0
        while first < len(layers):
            last = first + 1
            while last < len(layers) and (signal.is_cuda or sum(k.nbytes for k in kept[first:last]) < CACHED):
                last += 1
            group = kernels.feedback_terms(
                signal.to(kept[0].dtype), list(matrices[first:last]), list(kept[first:last]), activation, given_output
            )
            yield from zip(layers[first:last], group, strict=True)
            del group
            first = last

    def first_input_difference(self, modulation: Tensor) -> Tensor:
        """Δh_0 as the first layer receives it."""
        return self._prelude.pass_on(modulation).reshape(self.layers[0].input_shape)

    def folded_projection(self) -> Tensor | None:
        """W_1 F (n_1, C), where Δa_1 = (W_1 F) e is less work than W_1 (F e)."""
        if not self._folds_projection:
            return None
        first = self.layers[0]
        beside = first.products_beside
        if beside is None:
            # NOTE: with Fᵀ contiguous, which libraries multiply several times faster than the narrow W_1 F.
            beside = self.projection.T.to(first.weight.dtype).contiguous() @ first.weight.T
        return beside.T


def _check_fits(matrix: Tensor, fitting: tuple[int, ...], x: Tensor, layer: LayerPass) -> None:
    """The fixed matrix has the shape that this step asks for at the layer."""
    if matrix.shape != fitting:
        raise ValueError(
            f"input: samples of shape {tuple(x.shape[1:])} ask for a fixed matrix of {fitting} at {layer.stage.layer}, "
            f"which has one of {tuple(matrix.shape)}; expected samples of the network's input_shape, or set_rule to be "
            "called again"
        )


def runs_of(rules: Sequence[Rule], layers: Sequence[LayerPass]) -> list[tuple[Rule, list[LayerPass]]]:
    """Consecutive layers with the same rule, together."""
    pairs = groupby(zip(rules, layers, strict=True), key=lambda pair: id(pair[0]))
    groups = [list(group) for _, group in pairs]
    return [(group[0][0], [layer for _, layer in group]) for group in groups]


class StepFunction(torch.autograd.Function):
    """The standard pass forward; backward, the rules' updates as the parameters' gradients."""

    @staticmethod
    def forward(step: NetworkStep, x: Tensor, *parameters: Tensor) -> Tensor:
        # NOTE: a copy, because the caller may work on the output in place, and the step may have kept it.
        return step.forward(x).clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.step, x, *ctx.parameters = inputs
        kept = ctx.step.release()
        if ctx.step.backpropagates:
            kept.append(x)
            ctx.autocast = autocasts(x.device) and torch.get_autocast_dtype(x.device.type)
        ctx.save_for_backward(*kept)

    @staticmethod
    @uncompiled
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, ...]:
        creates_graph = torch.is_grad_enabled()
        if ctx.step.backpropagates and creates_graph:
            return StepFunction._differentiate(ctx, output_gradient)
        if not ctx.step.backpropagates and is_batched(output_gradient):
            raise RuntimeError(
                f"network: {ctx.step.describe_rules()} takes one gradient of the output at a time, not a batch of them "
                "(vmap, is_grads_batched); expected a loop over them, or rule='bp'"
            )
        with torch.no_grad():
            gradients = StepFunction._updates(ctx, output_gradient)
        return StepFunction._refusing_derivatives(ctx, gradients) if creates_graph else gradients

    @staticmethod
    def _updates(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, ...]:
        step = ctx.step
        _, step.wants_input_gradient, *wanted = ctx.needs_input_grad
        try:
            gradients = step.gradients(ctx.saved_tensors, output_gradient, any(wanted))
            input_gradient = step.input_gradient() if step.wants_input_gradient else None
        finally:
            step.forget()
        return None, input_gradient, *(gradients.get(parameter) for parameter in ctx.parameters)

    @staticmethod
    def _differentiate(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, ...]:
        """BP's gradients as autograd finds them, with their own derivatives."""
        x = ctx.saved_tensors[-1]
        needed = ctx.needs_input_grad[1:]
        wanted = [t for t, needs in zip((x, *ctx.parameters), needed, strict=True) if needs]
        output = output_again(ctx.step.stages, x, ctx.parameters, ctx.autocast)
        received = output_gradient.to(output.dtype)
        found = iter(torch.autograd.grad(output, wanted, received, create_graph=True, allow_unused=True))
        return None, *(next(found) if needs else None for needs in needed)

    @staticmethod
    def _refusing_derivatives(ctx: Any, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """The gradients, of which a derivative raises an error."""
        reason = (
            f"network: the updates of {ctx.step.describe_rules()} are no derivatives and have none "
            "(@once_differentiable); gradient penalties, Hessians and the like need rule='bp'"
        )
        refusing = iter(undifferentiable(reason, *(g.requires_grad_() for g in gradients if g is not None)))
        return tuple(None if g is None else next(refusing) for g in gradients)


def one_hot_target(target: Tensor, batch: int, classes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The target as (N, C) on a device: of class indices (N), then in this dtype, or one-hot rows already.

    Raises:
        ValueError: for another shape, or an index that is no class.
    """
    if target.shape == (batch,) and not target.is_floating_point():
        try:
            rows = target.to(device, torch.int64).unsqueeze(1)
            return torch.zeros(batch, classes, dtype=dtype, device=device).scatter_(1, rows, 1)
        except (IndexError, RuntimeError) as error:
            wrong = target.min() if target.min() < 0 else target.max()
            raise ValueError(f"target: expected class indices from 0 to {classes - 1}, got {int(wrong)}") from error
    if target.shape == (batch, classes):
        return target.to(device)
    raise _wrong_target(target, batch, classes)


def check_target(target: Tensor, output: Tensor) -> None:
    """A target that no rule asks for is nevertheless one: class indices, of positions too, or rows like the output.

    Raises:
        ValueError: for another shape, as of a mask that was meant for a module.
    """
    batch, classes = output.shape[0], output.shape[1:].numel()
    if target.is_floating_point() or target.dtype == torch.bool:
        indices: set[tuple[int, ...]] = set()
    else:
        indices = {(batch,), tuple(output.shape[:-1]), (batch, *output.shape[2:])}
    if tuple(target.shape) not in {*indices, (batch, classes), tuple(output.shape)}:
        raise _wrong_target(target, batch, classes)


def _wrong_target(target: Tensor, batch: int, classes: int) -> ValueError:
    return ValueError(
        f"target: expected class indices of shape ({batch},) or one-hot rows of shape ({batch}, {classes}), "
        f"got {target.dtype} of shape {tuple(target.shape)}; no module is given a second input"
    )
