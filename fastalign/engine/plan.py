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

from fastalign.engine.hooks import PreHooked, has_hooks
from fastalign.engine.layers import Block, Conv2d, Linear
from fastalign.engine.plain import inherited_code, is_plain, reading_of
from fastalign.engine.watch import Watch
from fastalign.ops.activations import Activation
from fastalign.rules import Rule


@dataclass(frozen=True)
class Boundary:
    """The begin or the end of a nested chain, whose hooks are called there."""

    chain: torch.nn.Sequential
    begins: bool
    entered: list[PreHooked]
    """What came in, shared by the two ends of a chain during one step."""


@dataclass(frozen=True)
class ActivationLink:
    """f, then dropout where there is one."""

    activation: Activation
    dropout: torch.nn.Dropout | None = None
    parts: tuple[torch.nn.Module | Boundary, ...] = ()
    """What it stands for, in order. Identities and boundaries are among them only where hooks are to be called."""

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        """The modules that it stands for, in order."""
        return tuple(part for part in self.parts if isinstance(part, torch.nn.Module))


@dataclass(frozen=True)
class ModuleLink:
    """Any other module between two layers."""

    module: torch.nn.Module
    is_plain: bool = False
    """Whether it computes what its type says."""


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
    hooked: bool = False
    """Whether there are hooks to be called."""

    @property
    def rule(self) -> Rule | None:
        """The rule that the layer asks for itself."""
        return self.layer.rule if isinstance(self.layer, Linear | Conv2d | Block) else None

    @property
    def runs_own_code(self) -> bool:
        """Whether it has a block, another module than torch's, or hooks."""
        links = (link.module for link in self.links if isinstance(link, ModuleLink))
        return self.hooked or self.native is not self.layer or any(map(has_own_forward, links))

    def modules(self) -> Iterator[torch.nn.Module]:
        """The layer, then the modules of the links, in order."""
        if self.layer is not None:
            yield self.layer
        for link in (self.activation, *self.links):
            yield from (link.module,) if isinstance(link, ModuleLink) else link.modules

    def parameters(self) -> Iterator[Tensor]:
        """The parameters of the layer, then those of the links."""
        if self.native is not None:
            own = self.native._parameters
            yield from (p for p in (own.get("weight"), own.get("bias")) if p is not None)
        elif self.layer is not None:
            yield from self.layer.parameters()
        for link in self.links:
            if isinstance(link, ModuleLink):
                yield from link.module.parameters()

    def has_hooks(self) -> bool:
        """Whether something of the stage has hooks, a nested chain that begins or ends here included."""
        links = [link for link in (self.activation, *self.links) if isinstance(link, ActivationLink)]
        nested = [part.chain for link in links for part in link.parts if isinstance(part, Boundary)]
        return has_hooks(*nested, *(part for module in self.modules() for part in module.modules()))

    def watched_by(self, watch: Watch) -> bool:
        """Have noted where the parameters of its kernels lie; False where a module's code decides what is called."""
        layer = self.native
        if layer is not self.layer:
            return False
        if layer is not None:
            watch.note_members(layer._parameters)
            watch.note_tensors(self.parameters())
        return all(
            isinstance(link, ActivationLink) or (link.is_plain and type(link.module) is torch.nn.Flatten)
            for link in self.links
        )

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


def make_plan(modules: Iterable[torch.nn.Module], hooked: bool = False) -> list[Stage]:
    """The stages of a chain of modules: first the one without a layer, then one for each layer.

    hooked: whether hooks are to be called, those of nested chains too.
    """
    stages = [Stage(None)]
    for part in _with_boundaries(modules) if hooked else flatten(modules):
        if isinstance(part, Boundary) or not _is_layer(part, first=len(stages) == 1):
            _add_link(stages[-1].links, part, hooked)
        elif is_native_layer(part):
            own = getattr(part, "activation", Activation.IDENTITY)
            links: list[Link] = [] if own is Activation.IDENTITY else [ActivationLink(own)]
            stages.append(Stage(part, part, links=links))
        else:
            stages.append(Stage(part))
    for stage in stages:
        if stage.native is not None and stage.links and isinstance(first := stage.links[0], ActivationLink):
            stage.activation, stage.links = first, stage.links[1:]
        stage.hooked = hooked and stage.has_hooks()
    return stages


def flatten(modules: Iterable[torch.nn.Module]) -> Iterator[torch.nn.Module]:
    """The modules, with nested chains opened unless they have a rule of their own."""
    for part in _with_boundaries(modules):
        if not isinstance(part, Boundary):
            yield part


def _with_boundaries(modules: Iterable[torch.nn.Module]) -> Iterator[torch.nn.Module | Boundary]:
    """The modules as by `flatten`, with the begin and the end of each chain that is opened."""
    for module in modules:
        if is_chain(module):
            entered: list[PreHooked] = []
            yield Boundary(module, True, entered)
            yield from _with_boundaries(module)
            yield Boundary(module, False, entered)
        else:
            yield module


def chains(outermost: torch.nn.Sequential) -> Iterator[torch.nn.Sequential]:
    """A chain and the chains that are opened within it."""
    yield outermost
    for module in outermost:
        if is_chain(module):
            yield from chains(module)


def guards_of(outermost: torch.nn.Sequential) -> Watch:
    """What the plan of a chain depends on, and where hooks would be that a call of its modules calls."""
    watch = Watch()
    inherited: list[tuple[type, str]] = []
    for chain in chains(outermost):
        watch.note_members(chain._modules)
        if chain is not outermost:
            watch.note(reading_of(chain), chain)
            watch.note_hooks(chain)
    for module in dict.fromkeys(flatten(outermost._modules.values())):
        watch.note(reading_of(module), module)
        inherited += inherited_code(module)
        for part in module.modules():
            watch.note_hooks(part)
            if part._modules:
                watch.note_members(part._modules)
    for kind, name in dict.fromkeys(inherited):
        watch.note(attrgetter(name), kind)
    return watch


def is_chain(module: torch.nn.Module) -> TypeGuard[torch.nn.Sequential]:
    """Whether the module is only a chain of others."""
    if type(module) is torch.nn.Sequential:
        return is_plain(module)
    return isinstance(module, torch.nn.Sequential) and getattr(module, "is_plain_chain", False)


def has_own_forward(module: torch.nn.Module) -> bool:
    """Return whether the module runs code of its own: neither its class nor the instance has torch's or our forward."""
    forward = type(module).forward
    known = str(getattr(forward, "__module__", None)).startswith(("torch.nn.", "fastalign."))
    return "forward" in vars(module) or not known


_UNITS = (
    torch.nn.Linear,
    torch.nn.Bilinear,
    torch.nn.modules.conv._ConvNd,
    torch.nn.Embedding,
    torch.nn.EmbeddingBag,
    torch.nn.RNNBase,
    torch.nn.RNNCellBase,
    torch.nn.MultiheadAttention,
)
_NORMALIZATIONS = (
    torch.nn.modules.batchnorm._NormBase,
    torch.nn.LayerNorm,
    torch.nn.GroupNorm,
    torch.nn.RMSNorm,
)


def units_of(module: torch.nn.Module) -> Iterator[torch.nn.Module | Tensor]:
    """Yield what in a module makes it a layer: torch's modules with weight matrices, and matrices of a user's own.

    Scales and shifts are none, whatever their shape: normalizations, a temperature, a gain for each channel.
    """
    for inner in module.modules():
        if isinstance(inner, _UNITS):
            yield inner
        elif not isinstance(inner, _NORMALIZATIONS):
            yield from (p for p in inner.parameters(recurse=False) if sum(size > 1 for size in p.shape) > 1)


def _is_layer(module: torch.nn.Module, first: bool) -> bool:
    """Return whether a rule gives this module an update of its own, and it does not belong to the layer before it."""
    if isinstance(module, Block) or any(True for _ in units_of(module)):
        return True
    return first and any(True for _ in module.parameters())


def is_native_layer(module: torch.nn.Module | None) -> TypeGuard[torch.nn.Linear | torch.nn.Conv2d]:
    """Whether the module is a plain linear layer or zero-padded convolution.

    It is not if its weight is computed from other parameters, as in pruning.
    """
    if module is None or "weight" not in module._parameters or not is_plain(module):
        return False
    if isinstance(module, torch.nn.Linear):
        return True
    return isinstance(module, torch.nn.Conv2d) and module.padding_mode == "zeros"


def _add_link(links: list[Link], part: torch.nn.Module | Boundary, hooked: bool) -> None:
    last = links[-1] if links and isinstance(links[-1], ActivationLink) else None
    if isinstance(part, torch.nn.Dropout) and is_plain(part):
        if last is not None and last.dropout is None:
            links[-1] = ActivationLink(last.activation, part, (*last.parts, part))
        else:
            links.append(ActivationLink(Activation.IDENTITY, part, (part,)))
        return
    activation = Activation.IDENTITY if isinstance(part, Boundary) else _activation_of(part)
    if activation is None:
        assert isinstance(part, torch.nn.Module)
        links.append(ModuleLink(part, is_plain(part)))
    elif activation is not Activation.IDENTITY:
        if last is not None and last.activation is Activation.IDENTITY and last.dropout is None:
            links[-1] = ActivationLink(activation, None, (*last.parts, part))
        else:
            links.append(ActivationLink(activation, None, (part,)))
    elif hooked:
        if last is not None:
            links[-1] = ActivationLink(last.activation, last.dropout, (*last.parts, part))
        else:
            links.append(ActivationLink(Activation.IDENTITY, None, (part,)))


def _activation_of(module: torch.nn.Module) -> Activation | None:
    """The activation that a plain module is, None if it is none that the kernels know."""
    if not is_plain(module):
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
