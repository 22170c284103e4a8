"""The links of a network during one step: activations with dropout, and other modules with autograd inside."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from operator import index
from typing import SupportsIndex, TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fastalign.engine.hooks import (
    WITHIN,
    PreHooked,
    call_forward_hooks,
    call_pre_hooks,
    handed_out,
    keeps_graph,
    undifferentiable,
)
from fastalign.engine.layers import run_by_network
from fastalign.engine.lost_gradients import examine, examine_again, is_examined, refusing_checkpoints
from fastalign.engine.plan import ActivationLink, Boundary, Link, has_own_forward, single_tensor
from fastalign.engine.shapes import as_matrix, in_shape
from fastalign.engine.tape import Keep, Tape
from fastalign.ops.activations import Activation
from fastalign.ops.autocast import autocasts
from fastalign.ops.schemas import kernels

Kind = TypeVar("Kind", bound=torch.nn.Module)

_LINEAR = (torch.nn.AvgPool2d, torch.nn.AdaptiveAvgPool2d, torch.nn.Flatten, torch.nn.Unflatten, torch.nn.ZeroPad2d)
"""Modules whose difference is the module of the difference."""
_BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm)
"""Modules that are linear in eval mode, but for a shift."""
_STOCHASTIC = (torch.nn.modules.dropout._DropoutNd, torch.nn.RReLU)


def is_stochastic(module: torch.nn.Module) -> bool:
    """Whether a module draws at every call."""
    return module.training and isinstance(module, _STOCHASTIC)


def _is_one_of(module: torch.nn.Module, kinds: tuple[type[Kind], ...]) -> TypeGuard[Kind]:
    """Return whether the module is of one of torch's kinds and computes what that computes; a subclass may not."""
    return type(module) in kinds and not has_own_forward(module)


def why_not_modulated(module: torch.nn.Module) -> str | None:
    """Return why a second, modulated pass through the module, as it is now, does not compare with the first."""
    name = type(module).__name__
    if is_stochastic(module):
        reason = "draws anew in the modulated pass; expected Dropout in the chain itself, whose mask both passes share"
    elif module.training and isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
        reason = (
            "in training mode takes its statistics from the batch, which the modulated pass changes; "
            "expected it in eval mode"
        )
    else:
        return None
    return f"{name} {reason}"


class ActivationPass:
    """f and dropout during one step."""

    def __init__(self, link: ActivationLink, tape: Tape) -> None:
        self._link = link
        self._tape = tape
        self._p = 0.0
        self._kept = self._seed = -1
        self.given_output = False
        self.pre_hooked: PreHooked | None = None
        """What the pre-hooks of the module that is f changed of the preactivation, if they did."""

    @property
    def function(self) -> Activation:
        return self._link.activation

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        return self._link.modules

    @property
    def has_effect(self) -> bool:
        return self._p > 0 or self.function is not Activation.IDENTITY

    def needs_preactivation(self, keep: Keep) -> bool:
        """Whether a must be kept; an identity without dropout is its own output."""
        if keep in (Keep.FOR_DIFFERENCE, Keep.FOR_BOTH):
            return self.has_effect
        return keep is Keep.FOR_GRADIENT and not self.function.derivative_follows_from_output

    def draw_dropout(self, like: Tensor) -> tuple[float, Tensor | None]:
        """The probability of dropout in this pass, and its seed."""
        dropout = self._link.dropout
        if dropout is None or not dropout.training or dropout.p == 0:
            return 0.0, None
        self._p = float(dropout.p)
        self._drawn = self._tape.next_seed(like.device)
        return self._p, self._drawn

    def keep(self, tensor: Tensor, keep: Keep) -> None:
        """Keep the preactivation, or the output where that does."""
        if not keep:
            return
        self.given_output = not self.needs_preactivation(keep)
        self._kept = self._tape.keep(tensor)
        if self._p > 0:
            self._seed = self._tape.keep(self._drawn)

    def forward(self, a: Tensor, keep: Keep) -> Tensor:
        p, seed = self.draw_dropout(a)
        h = kernels.activation_forward(a, int(self.function), p, seed) if self.has_effect else a
        self.keep(a if self.needs_preactivation(keep) else h, keep)
        return h

    def forward_hooked(self, a: Tensor, keep: Keep, observe_layer: Callable[[Tensor], None] | None = None) -> Tensor:
        """Compute what `forward` computes, with the hooks of its modules in torch's order.

        observe_layer: calls the forward hooks of the layer before it with the layer's output.
        """
        p, seed = self.draw_dropout(a)
        within_layer = self.function is not Activation.IDENTITY and not any(map(_is_function, self._link.parts))
        h = kernels.activation_forward(a, int(self.function), 0.0, None) if within_layer else a
        if observe_layer is not None:
            observe_layer(h)
        for part in self._link.parts:
            if isinstance(part, Boundary):
                h = _cross(part, h)
                continue
            entered = call_pre_hooks(part, h)
            self._check_change(part, entered, keep)
            h = entered.input
            if part is self._link.dropout:
                h = kernels.activation_forward(h, int(Activation.IDENTITY), p, seed) if p > 0 else h
            elif _is_function(part):
                a = h
                self.pre_hooked = entered if entered.changed else None
                h = kernels.activation_forward(h, int(self.function), 0.0, None)
            call_forward_hooks(part, entered.arguments, h)
        self.keep(a if self.needs_preactivation(keep) else h, keep)
        return h

    def _check_change(self, module: torch.nn.Module, entered: PreHooked, keep: Keep) -> None:
        """Refuse an input that a pre-hook has changed where the way back, or a difference, would not know of it."""
        if entered.changed and not _is_function(module):
            raise RuntimeError(
                f"{type(module).__name__}: a forward pre-hook changed its input, which under a rule only those of "
                "layers and activations may; change it in a module of its own before this one, or set rule='bp'"
            )
        refuse_change_of_difference(module, entered, keep)

    @property
    def kept(self) -> Tensor:
        return self._tape[self._kept]

    @property
    def has_dropout(self) -> bool:
        return self._p > 0

    def state(self) -> tuple[Tensor, int, bool, float, Tensor | None]:
        """What was kept, the activation, whether that is its output, the probability of dropout, and its seed."""
        seed = self._tape[self._seed] if self._p > 0 else None
        return self.kept, int(self.function), self.given_output, self._p, seed

    def backward(self, signal: Tensor) -> Tensor:
        """s ⊙ f′(a) ⊙ dropout."""
        if not self.has_effect:
            return signal
        kept, *arguments = self.state()
        return self._taken_back(kernels.activation_backward(signal.to(kept.dtype), kept, *arguments))

    def _taken_back(self, signal: Tensor) -> Tensor:
        return signal if self.pre_hooked is None else self.pre_hooked.take_back(signal)

    def feedback_term(self, signal: Tensor, matrix: Tensor) -> Tensor:
        """(signal · matrixᵀ) ⊙ f′(a) ⊙ dropout: for each sample, or for each of its positions."""
        kept, *arguments = self.state()
        shape, signal = kept.shape, as_matrix(signal)
        if signal.shape[0] != shape[0]:
            kept = kept.reshape(signal.shape[0], matrix.shape[0])
        term = kernels.feedback_term(signal.to(kept.dtype), matrix.to(kept.dtype), kept, *arguments)
        return self._taken_back(in_shape(term, shape))

    def output(self) -> Tensor:
        """f(a) after dropout, computed again where it was not kept."""
        kept, activation, given_output, p, seed = self.state()
        return kept if given_output else kernels.activation_forward(kept, activation, p, seed)

    def difference(self, delta_a: Tensor) -> Tensor:
        """(f(a + Δa) − f(a)) ⊙ dropout."""
        if not self.has_effect:
            return delta_a
        kept, activation, _, p, seed = self.state()
        return kernels.activation_difference(kept, delta_a.reshape(kept.shape).to(kept.dtype), activation, p, seed)

    def linear_difference(self, delta: Tensor, weight: Tensor) -> Tensor:
        """(f(a + delta · weightᵀ) − f(a)) ⊙ dropout."""
        kept, activation, _, p, seed = self.state()
        delta, weight = delta.to(kept.dtype), weight.to(kept.dtype)
        if not self.has_effect:
            return delta @ weight.T
        difference = kernels.linear_difference(as_matrix(delta), weight, as_matrix(kept), activation, p, seed)
        return in_shape(difference, kept.shape)


class ModulePass:
    """Any other module during one step: a graph of its own for backward, the input for differences."""

    def __init__(self, module: torch.nn.Module, tape: Tape, hooked: bool = False) -> None:
        self._module = module
        self._tape = tape
        self._hooked = hooked
        self._gradients: dict[Tensor, Tensor] = {}
        self._graph: tuple[Tensor, Tensor, list[Tensor]] | None = None

    @property
    def only_reshapes(self) -> bool:
        return _is_one_of(self._module, (torch.nn.Flatten, torch.nn.Unflatten))

    def forward(self, h: Tensor, keep: Keep, sends_signal: bool = True) -> Tensor:
        """m(h); unless it `sends_signal` on to what is below, only the parameters get gradients."""
        if keep in (Keep.FOR_GRADIENT, Keep.FOR_BOTH):
            return self._forward_with_graph(h, sends_signal)
        if keep is Keep.FOR_DIFFERENCE:
            for module in self._module.modules():
                if (reason := why_not_modulated(module)) is not None:
                    raise RuntimeError(f"PEPITA: {reason}")
            self._input = self._tape.keep(h)
        if self._hooked:
            with torch.enable_grad():
                return single_tensor(self._module, self._module(handed_out(h).clone())).detach()
        return single_tensor(self._module, self._module(self._given(h)))

    def _given(self, h: Tensor) -> Tensor:
        """h, or a copy for a module that may work in place: it must not write into what the layer before has kept.

        Code of a user's own may at any step. The copy is no leaf of autograd, which nobody may write into.
        """
        may_write = any(getattr(m, "inplace", False) or has_own_forward(m) for m in self._module.modules())
        return h.clone() if may_write else h

    def _forward_with_graph(self, h: Tensor, sends_signal: bool) -> Tensor:
        self._parameters = {name: p for name, p in self._module.named_parameters() if p.requires_grad}
        with torch.enable_grad(), run_by_network(self._module):
            # Stand-ins for the parameters, so that hooks on the parameters themselves see one gradient, the rule's.
            # NOTE: none is a leaf: a derivative that somebody asks for elsewhere is refused and not lost, and autocast,
            # which keeps its copies of leaves until its region ends, has none.
            leaves = [p.detach().requires_grad_() for p in self._parameters.values()]
            stand_ins = dict(zip(self._parameters, undifferentiable(WITHIN, *leaves), strict=True))
            x = h.detach()
            if h.is_floating_point() and (sends_signal or self._hooked):
                (x,) = undifferentiable(WITHIN, x.requires_grad_())
            given = x.clone() if self._hooked else self._given(x)
            examined = is_examined(self._module)
            with nullcontext() if examined else refusing_checkpoints(self._module):
                y = functional_call(self._module, stand_ins, (given,)) if stand_ins else self._module(given)
        self._graph = x, single_tensor(self._module, y), list(stand_ins.values())
        if not examined:
            examine(self._module, y)
        return y.detach()

    def backward(self, signal: Tensor) -> Tensor:
        """The signal at the module's input; its parameters' gradients wait in `take_gradients`."""
        assert self._graph is not None
        x, y, stand_ins = self._graph
        wanted = [*stand_ins, *([x] if x.requires_grad else ())]
        found: tuple[Tensor | None, ...] = (None,) * len(wanted)
        if y.requires_grad:
            received = signal.reshape(y.shape).to(y.dtype)
            found = torch.autograd.grad(y, wanted, received, retain_graph=keeps_graph(), allow_unused=True)
        for parameter, gradient in zip(self._parameters.values(), found, strict=False):
            if gradient is None:
                examine_again(self._module)
            else:
                self._gradients[parameter] = gradient
        input_gradient = found[-1] if x.requires_grad else None
        return torch.zeros_like(x) if input_gradient is None else input_gradient

    def forget(self) -> None:
        """Let go of the graph, unless it is to be gone through again."""
        self._gradients = {}
        if not keeps_graph():
            self._graph = None

    @property
    def is_activation(self) -> bool:
        return type(self._module).__module__ == torch.nn.modules.activation.__name__

    def output(self, h: Tensor) -> Tensor:
        """m(h), computed again."""
        return self._module(self._given(h))

    def take_gradients(self) -> dict[Tensor, Tensor]:
        """The parameters' gradients since they were last taken."""
        gradients, self._gradients = self._gradients, {}
        return gradients

    def difference(self, delta: Tensor) -> Tensor:
        """m(h + Δh) − m(h)."""
        module, h = self._module, self._tape[self._input]
        delta = delta.reshape(h.shape)
        if _is_one_of(module, _LINEAR):
            return module(delta)
        if _is_one_of(module, _BATCH_NORMS) and module.running_var is not None:
            no_shift = torch.zeros_like(module.running_var)
            return F.batch_norm(delta, no_shift, module.running_var, module.weight, None, eps=module.eps)
        return module(h + delta) - module(self._given(h))


_VECTOR = 8
"""The width of a map from which on a row has windows enough for a vector."""


class PoolingPass(ModulePass):
    """Max-pooling during one step. On a CPU it keeps its input alone: the way back finds the maxima once more."""

    _module: torch.nn.MaxPool2d

    def forward(self, h: Tensor, keep: Keep, sends_signal: bool = True) -> Tensor:
        has_kernel = h.is_cpu and h.is_floating_point() and self._has_window(h) and h.shape[3] >= _VECTOR
        self._window = self._read_window()
        self._by_kernels = has_kernel and h.is_contiguous() and not self._hooked
        if not self._by_kernels:
            return super().forward(h, keep, sends_signal)
        if keep:
            self._input = self._tape.keep(h)
        return kernels.max_pool2d_forward(h, *self._window)

    def backward(self, signal: Tensor, activation: ActivationPass | None = None) -> Tensor:
        """The signal at its input, or at that of the activation before it."""
        if not self._by_kernels:
            signal = super().backward(signal)
            return signal if activation is None else activation.backward(signal)
        h = self._tape[self._input]
        kept, *arguments = (h, int(Activation.IDENTITY), False, 0.0, None) if activation is None else activation.state()
        return kernels.max_pool2d_backward(signal.to(h.dtype), h, kept, *arguments, *self._window)

    def difference(self, delta: Tensor) -> Tensor:
        h = self._tape[self._input]
        if not self._has_window(h):
            return super().difference(delta)
        return kernels.max_pool2d_difference(h, delta.reshape(h.shape).to(h.dtype), *self._window)

    def _has_window(self, h: Tensor) -> bool:
        return h.dim() == 4 and not self._module.return_indices

    def _read_window(self) -> tuple[list[int], list[int], list[int], list[int], bool]:
        m = self._module
        return _pair(m.kernel_size), _pair(m.stride), _pair(m.padding), _pair(m.dilation), m.ceil_mode


def pass_of(link: Link, tape: Tape, hooked: bool) -> ActivationPass | ModulePass:
    """A link during one step."""
    if isinstance(link, ActivationLink):
        return ActivationPass(link, tape)
    pools = link.is_plain and type(link.module) is torch.nn.MaxPool2d
    return PoolingPass(link.module, tape, hooked) if pools else ModulePass(link.module, tape, hooked)


def _cross(boundary: Boundary, h: Tensor) -> Tensor:
    """Call the pre-hooks of a nested chain that begins, or the forward hooks of one that ends; returns the value."""
    chain = boundary.chain
    if not boundary.begins:
        call_forward_hooks(chain, boundary.entered.pop().arguments, h)
        return h
    entered = call_pre_hooks(chain, h)
    if entered.changed:
        raise RuntimeError(
            f"{type(chain).__name__}: a forward pre-hook on a nested chain may look at its input under a rule, not "
            "change it; change it in a module of its own, or set rule='bp'"
        )
    boundary.entered.append(entered)
    return entered.input


def refuse_change_of_difference(module: torch.nn.Module, entered: PreHooked, keep: Keep) -> None:
    """Refuse an input that a pre-hook has changed to a rule that runs a second, modulated pass."""
    if entered.changed and keep in (Keep.FOR_DIFFERENCE, Keep.FOR_BOTH):
        raise RuntimeError(
            f"{type(module).__name__}: a forward pre-hook changed its input, but PEPITA's modulated pass does not call "
            "it; change it in a module of its own before it"
        )


def _is_function(part: torch.nn.Module | Boundary) -> bool:
    """Whether a part of an activation link is the module that computes f."""
    return isinstance(part, torch.nn.Module) and not isinstance(part, torch.nn.Identity | torch.nn.Dropout)


def accepts(layer: torch.nn.Module, x: Tensor) -> None:
    """The layer can take this input."""
    weight = layer._parameters.get("weight")
    if weight is None:
        raise RuntimeError(f"{layer}: its weight is computed from others since the rule was set; call set_rule again")
    if isinstance(layer, torch.nn.Conv2d):
        if x.dim() != 4 or x.shape[1] != layer.in_channels:
            raise ValueError(f"input: expected shape (N, {layer.in_channels}, H, W) for {layer}, got {tuple(x.shape)}")
    elif x.dim() < 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"input: expected shape (N, {weight.shape[1]}) for {layer}, got {tuple(x.shape)}")
    if x.dtype != weight.dtype and not autocasts(x.device):
        raise TypeError(f"input: expected dtype {weight.dtype}, that of {layer}, got {x.dtype}")
    if x.device != weight.device:
        raise ValueError(f"input: expected device {weight.device}, that of {layer}, got {x.device}")


def _pair(value: SupportsIndex | Iterable[SupportsIndex]) -> list[int]:
    """Two numbers, of one or two as torch's modules take them."""
    values = [index(v) for v in value] if isinstance(value, Iterable) else [index(value)]
    return values * 2 if len(values) == 1 else values
