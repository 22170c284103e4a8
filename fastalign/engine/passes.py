"""One standard pass of a network, and what it keeps for the rule.

Tensors are kept on a `Tape`, which autograd's saved tensors hold between forward and backward. A `LayerPass` is a layer
during one step: `fastalign.rules.base.Layer` says what a rule asks of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastalign.engine.hooks import PreHooked, call_forward_hooks, call_pre_hooks
from fastalign.engine.links import (
    ActivationPass,
    ModulePass,
    PoolingPass,
    accepts,
    pass_of,
    refuse_change_of_difference,
)
from fastalign.engine.plan import Link, Stage
from fastalign.engine.shapes import as_matrix, in_shape
from fastalign.engine.tape import Keep, Tape
from fastalign.engine.watch import are_the_same
from fastalign.ops.activations import Activation
from fastalign.ops.autocast import autocast
from fastalign.ops.schemas import kernels
from fastalign.rules import Layer, Update


class FeedbackTerm(NamedTuple):
    """δ_l = (signal · B_lᵀ) ⊙ f′(a_l) of a linear layer, yet to be formed by whoever never needs all of it at once."""

    signal: Tensor
    matrix: Tensor
    kept: Tensor
    activation: int
    given_output: bool


class LayerPass:
    """A stage of the network during one step."""

    def __init__(self, stage: Stage, tape: Tape) -> None:
        self.stage = stage
        self.parameters = tuple(stage.parameters())
        """Those that this step has; afterwards the modules may have others (`torch.func.functional_call`)."""
        self.sends_signal = True
        """Whether its δ goes on to what is below, through its weights."""
        self.updates_at_once = False
        """Whether its rule has the updates of all its layers at once."""
        self.owns_input = False
        """Whether nobody else asks for its input, which then may be written over."""
        self.defers_output = False
        """Whether a linear layer gives its preactivation where its output follows from that, by `activity`."""
        self.hands_on_delta = False
        """Whether its rule is known to yield δ untouched, so that a `FeedbackTerm` can stand for it."""
        self.slice: tuple[bool, bool] | None = None
        """Of a slice of the samples, the updates of which add up: whether it is the first, and whether the last."""
        self.rows_beside: Tensor | None = None
        """Rows that a linear layer without a bias multiplies by its weight along with its input."""
        self._feedback = self._products_beside = -1
        self._local_gradients: dict[Tensor, Tensor] = {}
        self._tape = tape
        self._links: list[ActivationPass | ModulePass] = []
        self._resized = 0
        """How many links there are up to the last that changes the number of units (pooling)."""
        self._block: ModulePass | None = None
        self._block_input_signal: Tensor | None = None
        self._pre_hooked: PreHooked | None = None
        """What the pre-hooks of its module made of the input, where hooks are called."""

    # The standard pass

    def forward(self, x: Tensor, keep: Keep) -> Tensor:
        """The stage's output; keeps what `keep` says of it."""
        stage = self.stage
        if stage.native is not None and stage.hooked:
            x = self._enter(stage.native, x, keep)
        if stage.native is not None:
            x = autocast(x)
        self.input_shape = x.shape
        self._input = self._tape.keep(x) if keep else -1
        if stage.native is not None:
            accepts(stage.native, x)
            forward = self._forward_linear if self.is_linear else self._forward_convolution
            h = forward(x, ActivationPass(stage.activation, self._tape), keep)
        elif stage.layer is not None:
            self._block = ModulePass(stage.layer, self._tape, stage.hooked)
            h = self._block.forward(x, Keep.FOR_GRADIENT if keep else keep, self.sends_signal)
        else:
            h = x
        self.activity_shape = h.shape
        for link in stage.links:
            before = h
            run = self._add(link)
            if stage.hooked and isinstance(run, ActivationPass):
                h = run.forward_hooked(h, keep)
            else:
                h = run.forward(h, keep)
            if h.shape[1:].numel() != before.shape[1:].numel():
                self._resized = len(self._links)
        self.output_shape = h.shape
        return h

    def _enter(self, layer: torch.nn.Module, x: Tensor, keep: Keep) -> Tensor:
        """The input of a native layer as its pre-hooks leave it, which may also have written to its weight."""
        self._pre_hooked = call_pre_hooks(layer, x)
        refuse_change_of_difference(layer, self._pre_hooked, keep)
        if not are_the_same(tuple(self.stage.parameters()), self.parameters):
            raise RuntimeError(
                f"{layer}: a forward pre-hook put another weight in the place of its parameter, to which the rule "
                "gives its update; write into the parameter instead, shard the whole network in one, or set rule='bp'"
            )
        return self._pre_hooked.input

    def _observe(self, output: Tensor) -> None:
        """Call the forward hooks of the layer's module."""
        assert self._pre_hooked is not None
        call_forward_hooks(self.native, self._pre_hooked.arguments, output)

    def _add(self, link: Link) -> ActivationPass | ModulePass:
        run = pass_of(link, self._tape, self.stage.hooked)
        self._links.append(run)
        return run

    def _parameters(self, x: Tensor, keep: Keep) -> tuple[Tensor, Tensor | None]:
        """The layer's weight and bias in the dtype of the pass; the weight is kept."""
        layer = self.native
        weight, bias = self.own_parameters = layer.weight, layer.bias
        restored = self.stage.hooked and bool(layer._forward_pre_hooks) and bool(layer._forward_hooks)
        if weight.dtype != x.dtype or restored:
            if keep:
                self._tape.keep(layer.weight)  # so that autograd notices when it changes before backward
            # A pre-hook may have changed the weight for the time of the product, and a forward hook change it back.
            weight, bias = weight.to(x.dtype, copy=restored), None if bias is None else bias.to(x.dtype)
        self._weight = self._tape.keep(weight) if keep else -1
        return weight, bias

    def _forward_linear(self, x: Tensor, activation: ActivationPass, keep: Keep) -> Tensor:
        self._links.append(activation)
        weight, bias = self._parameters(x, keep)
        rows = as_matrix(x)
        shape = (*x.shape[:-1], weight.shape[0])
        if self.stage.hooked:
            a = kernels.linear_forward(rows, weight, bias, int(Activation.IDENTITY), 0.0, None, False)[0]
            return activation.forward_hooked(a.reshape(shape), keep, self._observe)
        p, seed = activation.draw_dropout(x)
        keep_a = activation.needs_preactivation(keep)
        samples = rows.shape[0]
        if self.rows_beside is not None and bias is None:
            rows = torch.cat((rows, self.rows_beside.to(rows.dtype)))
        if self.defers_output and keep_a and not self.stage.links and not is_half(x):
            h, _ = kernels.linear_forward(rows, weight, bias, int(Activation.IDENTITY), 0.0, None, False)
            a = h
        else:
            h, a = kernels.linear_forward(rows, weight, bias, int(activation.function), p, seed, keep_a)
        if rows.shape[0] > samples:
            if keep:
                self._products_beside = self._tape.keep((a if keep_a else h)[samples:])
            h, a = h[:samples], a[:samples]
        h = in_shape(h, shape)
        activation.keep(in_shape(a, shape) if keep_a else h, keep)
        return h

    def _forward_convolution(self, x: Tensor, activation: ActivationPass, keep: Keep) -> Tensor:
        self._links.append(activation)
        weight, bias = self._parameters(x, keep)
        stride, padding, dilation, groups = self._convolution = convolution_of(self.native)
        a = torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
        if self.stage.hooked:
            return activation.forward_hooked(a, keep, self._observe)
        return activation.forward(a, keep)

    @property
    def native(self) -> torch.nn.Linear | torch.nn.Conv2d:
        """The layer's module, unless it is a block."""
        layer = self.stage.native
        assert layer is not None
        return layer

    def release(self) -> None:
        """Let go of what it has kept for the rule, on a tape of its own."""
        self._tape.release()

    def forget(self) -> None:
        """Let go of what a backward pass has left."""
        self._local_gradients = {}
        self._block_input_signal = None
        for run in (self._block, *self._links):
            if isinstance(run, ModulePass):
                run.forget()

    # What a rule asks

    @property
    def weight(self) -> Tensor:
        self.check_plain()
        return self._tape[self._weight]

    @property
    def input(self) -> Tensor:
        return self._tape[self._input]

    @input.setter
    def input(self, x: Tensor) -> None:
        self._tape.put(self._input, x)

    def drop_input(self) -> None:
        """Let go of the input before the rest."""
        self.input = self.input.new_empty(0)

    @property
    def products_beside(self) -> Tensor | None:
        """rows_beside · Wᵀ, where they were multiplied."""
        return None if self._products_beside < 0 else self._tape[self._products_beside]

    def keep_feedback(self, matrix: Tensor | None) -> None:
        """Keep the layer's fixed matrix for the rule."""
        self._feedback = -1 if matrix is None else self._tape.keep(matrix)

    @property
    def feedback(self) -> Tensor | None:
        return None if self._feedback < 0 else self._tape[self._feedback]

    def plain_feedback(self) -> tuple[Tensor, Tensor, int, bool] | None:
        """The fixed matrix, what the activation kept, its number, whether it kept its output; None if more follows."""
        matrix = self.feedback
        if matrix is None or self.is_block or len(self._links) != 1:
            return None
        link = self._activity_link()
        return (
            None
            if link.has_dropout or link.pre_hooked is not None
            else (matrix.to(link.kept.dtype), link.kept, int(link.function), link.given_output)
        )

    @property
    def only_reshapes(self) -> bool:
        """Whether the links do nothing but flatten."""
        return all(isinstance(link, ModulePass) and link.only_reshapes for link in self._links)

    @property
    def trainable(self) -> bool:
        return any(p.requires_grad for p in self.parameters)

    @property
    def is_block(self) -> bool:
        return self._block is not None

    @property
    def is_linear(self) -> bool:
        return isinstance(self.stage.native, torch.nn.Linear)

    @property
    def is_convolution(self) -> bool:
        return isinstance(self.stage.native, torch.nn.Conv2d)

    @property
    def positions(self) -> int:
        return self.activity_shape[2:].numel() if self.is_convolution else 1

    def delta(self, signal: Tensor, matrix: Tensor | None) -> Tensor:
        """δ_l = (signal · matrixᵀ) ⊙ f′(a_l), the signal entering at the stage's output."""
        assert matrix is not None
        if len(self._links) == 1 and isinstance(self._links[0], ActivationPass) and not self.is_block:
            return self._links[0].feedback_term(signal, matrix)
        projected = signal @ matrix.to(signal.dtype).T
        return self.take_back(projected.reshape(self.output_shape))

    def delta_through(self, above: Layer, delta: Tensor, matrix: Tensor | None = None) -> Tensor:
        """δ_l = (δ_{l+1} · W_{l+1}) ⊙ f′(a_l), or with a matrix in place of W_{l+1}; through a block by autograd."""
        if above.is_linear and not as_pass(above).changes_input:
            return self.delta(delta, (above.weight if matrix is None else matrix).T)
        return self.take_back(above.input_signal(delta, matrix))

    def input_signal(self, delta: Tensor, matrix: Tensor | None = None) -> Tensor:
        """The signal that δ_l sends to the layer's input through W_l, or a matrix in its place."""
        if self._block is not None:
            return self._block_signal(delta)
        weight = (self.weight if matrix is None else matrix).to(delta.dtype)
        if self.is_linear:
            return self._before_hooks(in_shape(as_matrix(delta) @ weight, self.input_shape))
        stride, padding, dilation, groups = self._convolution
        mask = [True, False, False]
        signal = torch.ops.aten.convolution_backward(
            delta, self.input.to(delta.dtype), weight, None, stride, padding, dilation, False, [0, 0], groups, mask
        )[0]
        return self._before_hooks(signal)

    @property
    def changes_input(self) -> bool:
        """Whether pre-hooks of its module have changed its input."""
        return self._pre_hooked is not None and self._pre_hooked.changed

    def _before_hooks(self, signal: Tensor) -> Tensor:
        return signal if self._pre_hooked is None else self._pre_hooked.take_back(signal)

    def take_back(self, signal: Tensor) -> Tensor:
        """A signal at the stage's output, taken back to δ_l at the preactivation by the links' own derivatives."""
        return self._take_back_through(self._links, signal)

    def take_error_back(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return ∂loss/∂a_L twice, as the error that is sent and as δ_L, for a gradient at the output layer's output.

        Where the number of units changes after a_L (pooling), the error is that of the units after it: the output's.
        """
        error = self._take_back_through(self._links[self._resized :], gradient)
        return error, self._take_back_through(self._links[: self._resized], error)

    def _take_back_through(self, links: Sequence[ActivationPass | ModulePass], signal: Tensor) -> Tensor:
        links = [*links]
        while links:
            link = links.pop()
            before = links[-1] if links else None
            if isinstance(link, PoolingPass) and isinstance(before, ActivationPass) and before.pre_hooked is None:
                signal = link.backward(signal, before)
                links.pop()
            else:
                signal = link.backward(signal)
            if isinstance(link, ModulePass):
                self._add_local_gradients(link.take_gradients())
        return signal

    def preactivation(self) -> Tensor:
        """a_l, of a layer that keeps it."""
        return self._activity_link().kept

    def activity(self) -> Tensor:
        """h_l after the activation and before pooling; a_l where no activation follows directly."""
        h = self._activity_link().output()
        for link in self._other_activations():
            h = link.output(h)
        return h

    @property
    def recalls_output(self) -> bool:
        """Whether its output follows, in the same bits, from the preactivation that it keeps, by `activity`."""
        link = self._activity_link()
        # NOTE: a fused forward pass has f of a preactivation that was not yet rounded to a half.
        unrounded = self.is_linear and is_half(link.kept)
        return len(self._links) == 1 and not link.given_output and not unrounded

    def preactivation_difference(self, delta_input: Tensor) -> Tensor:
        """Δa_l = W_l Δh_{l−1}."""
        weight = self.weight
        delta_input = delta_input.to(weight.dtype)
        if self.is_linear:
            return delta_input @ weight.T
        stride, padding, dilation, groups = self._convolution
        return torch.conv2d(delta_input, weight, None, stride, padding, dilation, groups)

    def difference(self, delta_input: Tensor, matrix: Tensor | None = None) -> Tensor:
        """Δh_l = f(a_l + W_l Δh_{l−1}) − f(a_l), before pooling, or with a matrix in place of W_l."""
        if self.is_linear:
            matrix = self.weight if matrix is None else matrix
            difference = self._activity_link().linear_difference(delta_input, matrix)
        else:
            difference = self._activity_link().difference(self.preactivation_difference(delta_input))
        for link in self._other_activations():
            difference = link.difference(difference)
        return difference

    def modulated_input(self, difference: Tensor) -> Tensor:
        """h_{l−1}^mod = h_{l−1} + Δh_{l−1}; in the place of h_{l−1} where the layer owns that."""
        if self.owns_input and self.input.dtype == difference.dtype:
            return self.input.add_(difference)
        return self.input + difference

    def pass_on(self, difference: Tensor) -> Tensor:
        """Δh_l through the links after the activation, shaped like the stage's output."""
        passed = 0 if self.stage.layer is None else 1 + len(self._other_activations())
        for link in self._links[passed:]:
            difference = link.difference(difference)
        return in_shape(difference, self.output_shape)

    def _other_activations(self) -> list[ModulePass]:
        """The activation after a native layer, where it is one that the kernels do not know."""
        link = self._links[1] if len(self._links) > 1 else None
        return [link] if isinstance(link, ModulePass) and link.is_activation else []

    def _activity_link(self) -> ActivationPass:
        link = self._links[0]
        assert isinstance(link, ActivationPass)
        return link

    def check_plain(self) -> None:
        """Refuse a block in the place of a layer that has a weight matrix."""
        if self.stage.native is None:
            raise RuntimeError(
                f"{type(self.stage.layer).__name__}: its rule needs a plain layer, which it was when the rule was set "
                "and no longer is (another module, or a forward of its own); call set_rule again"
            )

    def _block_signal(self, delta: Tensor) -> Tensor:
        assert self._block is not None
        if self._block_input_signal is None:
            self._block_input_signal = self._block.backward(delta)
            self._add_local_gradients(self._block.take_gradients())
        return self._block_input_signal

    # The update

    def update(self, post: Tensor, pre: Tensor, scale: float, with_bias: bool) -> tuple[Tensor, Tensor]:
        """ΔW = scale · Σ post ⊗ pre and Δb = scale · Σ post."""
        post = post.to(pre.dtype)
        if self.is_linear:
            return kernels.linear_update(as_matrix(post), as_matrix(pre), scale, with_bias)
        layer = self.native
        assert isinstance(layer, torch.nn.Conv2d)
        return kernels.conv2d_update(post, pre, layer.kernel_size, *self._convolution, scale, with_bias)

    def gradients(self, post: Tensor, pre: Tensor, scale: float, with_bias: bool = True) -> dict[Tensor, Tensor]:
        """What an update changes, as gradients by parameter: the layer's, and those of modules within the stage."""
        found: dict[Tensor, Tensor] = {}
        if self._block is not None:
            self._block_signal(post)
        elif self._is_trained:
            weight, bias = self.own_parameters
            found[weight], bias_update = self.update(post, pre, scale, with_bias and bias is not None)
            if with_bias and bias is not None:
                found[bias] = bias_update
        return {**found, **self._take_local_gradients()}

    @property
    def _is_trained(self) -> bool:
        return any(p is not None and p.requires_grad for p in self.own_parameters)

    def joins_others(self, pre: Tensor) -> bool:
        """Whether its update may wait for those of other layers: on a GPU one launch then serves all."""
        plain = self.is_linear and not self.has_local_gradients
        return self.updates_at_once and pre.is_cuda and plain and self._is_trained

    @property
    def has_local_gradients(self) -> bool:
        """Whether modules within the stage have gradients to take."""
        return bool(self._local_gradients)

    def _add_local_gradients(self, gradients: dict[Tensor, Tensor]) -> None:
        """A module that stands in several places has the sum."""
        for parameter, gradient in gradients.items():
            if parameter in self._local_gradients:
                gradient = gradient + self._local_gradients[parameter]
            self._local_gradients[parameter] = gradient

    def _take_local_gradients(self) -> dict[Tensor, Tensor]:
        """The gradients of modules within the stage (normalisation, a block); each is given once."""
        gradients, self._local_gradients = self._local_gradients, {}
        return gradients


def gradients_at_once(updates: Sequence[Update]) -> list[tuple[Tensor, Tensor]]:
    """Parameters and gradients of several linear layers, in one call for all that are of one kind, on one device."""
    kinds: dict[tuple[object, object, bool], list[Update]] = {}
    for update in updates:
        _, bias = as_pass(update.layer).own_parameters
        kind = update.pre.device, update.pre.dtype, update.with_bias and bias is not None
        kinds.setdefault(kind, []).append(update)
    found: list[tuple[Tensor, Tensor]] = []
    for (*_, with_bias), group in kinds.items():
        post = [as_matrix(update.post.to(update.pre.dtype)) for update in group]
        pre = [as_matrix(update.pre) for update in group]
        gradients = kernels.linear_updates(post, pre, [update.scale for update in group], with_bias)
        for update, weight_gradient, bias_gradient in zip(group, gradients[::2], gradients[1::2], strict=True):
            weight, bias = as_pass(update.layer).own_parameters
            found.append((weight, weight_gradient))
            if with_bias and bias is not None:
                found.append((bias, bias_gradient))
    return found


def as_pass(layer: Layer) -> LayerPass:
    """The layer of an update, which in a network is a pass."""
    assert isinstance(layer, LayerPass)
    return layer


def is_half(tensor: Tensor) -> bool:
    """Whether its numbers have two bytes."""
    return tensor.dtype in (torch.bfloat16, torch.float16)


def convolution_of(layer: torch.nn.Module) -> tuple[Sequence[int], Sequence[int], Sequence[int], int]:
    """Stride, padding (as numbers), dilation and groups of a convolution."""
    assert isinstance(layer, torch.nn.Conv2d)
    padding = layer.padding
    if padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(t % 2 for t in total):
            raise ValueError(
                f"padding: 'same' with kernel {layer.kernel_size} and dilation {layer.dilation} pads unevenly; "
                "expected an odd kernel, or a ZeroPad2d before the layer"
            )
        padding = (total[0] // 2, total[1] // 2)
    assert not isinstance(padding, str)
    return layer.stride, padding, layer.dilation, layer.groups
