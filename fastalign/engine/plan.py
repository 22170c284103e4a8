"""The plan of a network: its modules sorted into layers, each with what follows it up to the next.

A *layer* holds weights that a rule updates: a linear layer, a convolution, or a block (any other module with weights).
What follows it is a chain of *links*: activations with their dropout, and other modules (pooling, normalisation, …).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TypeGuard

import torch
from torch import Tensor

from fastalign.engine.layers import Block, Conv2d, Linear
from fastalign.engine.watch import Watch
from fastalign.ops.activations import Activation
from fastalign.rules import Rule


@dataclass(frozen=True)
class ActivationLink:
    """f, then dropout where there is one."""

    activation: Activation
    dropout: torch.nn.Dropout | None = None
    modules: tuple[torch.nn.Module, ...] = ()


@dataclass(frozen=True)
class ModuleLink:
    """Any other module between two layers."""

    module: torch.nn.Module


Link = ActivationLink | ModuleLink


@dataclass
class Stage:
    """A layer and what follows it; the links before the first layer form a stage without one."""

    layer: torch.nn.Module | None
    native: torch.nn.Linear | torch.nn.Conv2d | None = None
    """The layer, if the kernels compute it; None for a block."""
    activation: ActivationLink = field(default=ActivationLink(Activation.IDENTITY))
    """The activation that follows a native layer directly."""
    links: list[Link] = field(default_factory=list)
    """The other links, in order."""

    @property
    def rule(self) -> Rule | None:
        """The rule that the layer asks for itself."""
        return self.layer.rule if isinstance(self.layer, Linear | Conv2d | Block) else None

    def modules(self) -> Iterator[torch.nn.Module]:
        """The layer, then the modules of the links, in order."""
        if self.layer is not None:
            yield self.layer
        for link in (self.activation, *self.links):
            yield from (link.module,) if isinstance(link, ModuleLink) else link.modules

    def parameters(self) -> Iterator[Tensor]:
        """The parameters of the layer, then those of the links."""
        if self.native is not None:
            yield self.native.weight
            if self.native.bias is not None:
                yield self.native.bias
        elif self.layer is not None:
            yield from self.layer.parameters()
        for link in self.links:
            if isinstance(link, ModuleLink):
                yield from link.module.parameters()

    def watched_by(self, watch: Watch) -> bool:
        """Have noted what decides the kernels of a step, besides rule and shapes; False where a module's code does."""
        layer = self.native
        if layer is not self.layer:
            return False
        if layer is not None:
            watch.note_members(layer._parameters)
            watch.note_tensors(self.parameters())
            if isinstance(layer, torch.nn.Conv2d):
                watch.note(attrgetter("stride", "padding", "dilation", "groups"), layer)
        modules: list[torch.nn.Module] = [] if layer is None else [layer]
        for link in (self.activation, *self.links):
            if isinstance(link, ActivationLink):
                modules += link.modules
                if link.dropout is not None:
                    watch.note(attrgetter("training", "p"), link.dropout)
            elif type(link.module) is torch.nn.Flatten:
                modules.append(link.module)
                watch.note(attrgetter("start_dim", "end_dim"), link.module)
            else:
                return False
        watch.note_hooks(*modules)
        return True

    def run(self, x: Tensor) -> Tensor:
        """The stage's output as its modules compute it."""
        for module in self.modules():
            x = single_tensor(module, module(x))
        return x


def single_tensor(module: torch.nn.Module, output: object) -> Tensor:
    """The output of a module of the chain, which must be one tensor."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"{type(module).__name__}: expected a module that returns one tensor, got {type(output).__name__}"
        )
    return output


def make_plan(modules: Iterable[torch.nn.Module]) -> list[Stage]:
    """The stages of a chain of modules: first the one without a layer, then one for each layer."""
    stages = [Stage(None)]
    for module in flatten(modules):
        if not _is_layer(module, first=len(stages) == 1):
            _add_link(stages[-1].links, module)
        elif is_native_layer(module):
            own = getattr(module, "activation", Activation.IDENTITY)
            stages.append(Stage(module, module, links=[] if own is Activation.IDENTITY else [ActivationLink(own)]))
        else:
            stages.append(Stage(module))
    for stage in stages:
        if stage.native is not None and stage.links and isinstance(first := stage.links[0], ActivationLink):
            stage.activation, stage.links = first, stage.links[1:]
    return stages


def flatten(modules: Iterable[torch.nn.Module]) -> Iterator[torch.nn.Module]:
    """The modules, with nested chains opened unless they have a rule of their own."""
    for module in modules:
        if is_chain(module):
            if is_watched(module):
                raise RuntimeError("Sequential: a hook on a nested one sees nothing under a rule; hook its modules")
            yield from flatten(module)
        else:
            yield module


def chains(outermost: torch.nn.Sequential) -> Iterator[torch.nn.Sequential]:
    """A chain and the chains that are opened within it."""
    yield outermost
    for module in outermost:
        if is_chain(module):
            yield from chains(module)


def is_chain(module: torch.nn.Module) -> TypeGuard[torch.nn.Sequential]:
    """Whether the module is only a chain of others."""
    plain = type(module) is torch.nn.Sequential or getattr(module, "is_plain_chain", False)
    return plain and isinstance(module, torch.nn.Sequential)


def is_watched(*modules: torch.nn.Module) -> bool:
    """Whether any of the modules has hooks."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in modules
    )


def _is_layer(module: torch.nn.Module, first: bool) -> bool:
    """Whether a rule gives this module an update of its own.

    A module whose parameters are all vectors (normalisation, PReLU) belongs to the layer before it.
    """
    if isinstance(module, Block):
        return True
    parameters = list(module.parameters())
    return any(p.dim() != 1 for p in parameters) or (first and bool(parameters))


def is_native_layer(module: torch.nn.Module | None) -> TypeGuard[torch.nn.Linear | torch.nn.Conv2d]:
    """Whether the module is a linear layer or a zero-padded convolution, no subclass that computes other things.

    Nor one whose weight is computed from other parameters, as in pruning.
    """
    if module is None or "weight" not in module._parameters:
        return False
    if type(module) in (torch.nn.Linear, Linear):
        return True
    return type(module) in (torch.nn.Conv2d, Conv2d) and getattr(module, "padding_mode", None) == "zeros"


def _add_link(links: list[Link], module: torch.nn.Module) -> None:
    if type(module) is torch.nn.Dropout:
        last = links[-1] if links else None
        if isinstance(last, ActivationLink) and last.dropout is None:
            links[-1] = ActivationLink(last.activation, module, (*last.modules, module))
        else:
            links.append(ActivationLink(Activation.IDENTITY, module, (module,)))
        return
    activation = _activation_of(module)
    if activation is None:
        links.append(ModuleLink(module))
    elif activation is not Activation.IDENTITY:
        links.append(ActivationLink(activation, None, (module,)))


def _activation_of(module: torch.nn.Module) -> Activation | None:
    """The activation that a parameterless torch module is, None if it is none that the kernels know."""
    if not type(module).__module__.startswith("torch.nn."):
        return None
    match module:
        case torch.nn.Identity():
            return Activation.IDENTITY
        case torch.nn.Tanh():
            return Activation.TANH
        case torch.nn.Sigmoid():
            return Activation.LOGISTIC
        case torch.nn.ReLU():
            return Activation.RELU
        case torch.nn.LeakyReLU(negative_slope=0.01):
            return Activation.LEAKY_RELU
        case torch.nn.ELU(alpha=1.0):
            return Activation.ELU
        case torch.nn.Softplus(beta=1.0, threshold=20.0):
            return Activation.SOFTPLUS
        case torch.nn.SiLU():
            return Activation.SILU
        case torch.nn.GELU(approximate="none"):
            return Activation.GELU
    return None
