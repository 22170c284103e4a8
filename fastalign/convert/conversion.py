"""An existing network as one that learns by a rule."""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict
from collections.abc import Sequence
from itertools import groupby, takewhile
from typing import TYPE_CHECKING

import torch

from fastalign import nn
from fastalign.engine.plan import units_of
from fastalign.rules import BP, Rule

if TYPE_CHECKING:
    from fastalign.convert.tracing import Piece


def convert(
    module: torch.nn.Module,
    rule: str | Rule | Sequence[str | Rule],
    input_shape: Sequence[int] | None = None,
    units: Sequence[str | torch.nn.Module | type[torch.nn.Module]] = (),
) -> nn.Sequential:
    """A network that computes what `module` computes, with the same weights, and learns by a rule.

    nn.Sequential is opened; any other forward is traced with torch.fx and cut wherever exactly one tensor is live. What
    lies between two cuts, and a submodule whose own forward branches (a residual block), is one block: backpropagation
    inside, the rule's signal at its output. What the forward does not use is left out. `units` names submodules that
    are to be one block each, whatever their forward is. A warning names a block that holds most of the weights.

    Parameters are the same objects, under the same names where the order of the forward allows it: `nn.ModuleList`s
    used in turns come as `convs_0`, `norms_0`, …; weights in a branching forward of the network itself stand under the
    name of their block; a name that Sequential itself has (`projection`) gets an underscore.

        network = fastalign.convert(MyResNet(), rule="dfa", input_shape=(3, 32, 32))
        optimizer = torch.optim.Adam(network.parameters())
        loss = F.cross_entropy(network(x), y); loss.backward(); optimizer.step(); optimizer.zero_grad()

    Args:
        module: takes one tensor (N, ...) and returns one.
        rule: a rule or its name; or one for each layer of the result.
        input_shape: the shape of one sample, where the shape of a fixed matrix depends on it (convolutions, blocks).
        units: submodules, their names or classes. An nn.Sequential among them comes as an `nn.Block`, which adds
            `module` to the names of its parameters.

    Returns:
        The network, in the module's training mode. It holds the module's own layers: use one or the other.

    Raises:
        TypeError: for anything but a module, or anything but modules, names and classes as units.
        ValueError: for a forward that cannot be traced, has several inputs or outputs, uses weights twice, differs
            between training and evaluation by more than dropout, or can nowhere be cut; for hooks on what is opened;
            for a unit that is not part of the forward, or of another unit; and as `fastalign.nn.Sequential`.
    """
    from fastalign.convert.tracing import chain_of

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    chosen = _chosen(module, units)
    pieces = chain_of(module, units=chosen)
    _check_units(pieces, chosen, units)
    _check_weights(module, pieces)
    children = _children(_name_apart(_gather(pieces)), module.training)
    network = nn.Sequential(children, rule=rule, input_shape=input_shape)
    network.training = module.training
    if any(not isinstance(its_rule, BP) for its_rule in network.layer_rules):
        _warn_of_large_blocks(pieces, chosen)
    return network


def _chosen(
    module: torch.nn.Module, units: Sequence[str | torch.nn.Module | type[torch.nn.Module]]
) -> dict[torch.nn.Module, str]:
    """Return the submodules that are to be units, with their names."""
    if not isinstance(units, list | tuple):
        raise TypeError(f"units: expected a list of modules, names and classes, got {type(units).__name__}")
    names = {inner: name for name, inner in module.named_modules() if name}
    chosen: dict[torch.nn.Module, str] = {}
    for unit in units:
        if not isinstance(unit, str | torch.nn.Module | type):
            raise TypeError(f"units: expected modules, names and classes, got {type(unit).__name__}")
        found = {
            inner: name
            for inner, name in names.items()
            if unit in (inner, name) or (isinstance(unit, type) and isinstance(inner, unit))
        }
        if not found:
            kind = unit if isinstance(unit, str) else getattr(unit, "__name__", type(unit).__name__)
            raise ValueError(f"units: {type(module).__name__} has no submodule {kind!r}")
        chosen |= found
    return chosen


def _check_units(
    pieces: Sequence[Piece],
    chosen: dict[torch.nn.Module, str],
    units: Sequence[str | torch.nn.Module | type[torch.nn.Module]],
) -> None:
    """Refuse a unit that is asked for by itself, but is not one."""
    found = {piece.module.module if isinstance(piece.module, nn.Block) else piece.module for piece in pieces}
    for inner, name in chosen.items():
        if inner not in found and (inner in units or name in units):
            around = [_dotted(piece) for piece in pieces if inner in set(piece.module.modules())]
            where = f"is part of the block {around[0]!r}" if around else "is not called by the forward"
            raise ValueError(f"units: {name!r} {where}; expected submodules of a chain")


def _warn_of_large_blocks(pieces: Sequence[Piece], chosen: dict[torch.nn.Module, str]) -> None:
    sizes = [sum(p.numel() for p in piece.module.parameters()) for piece in pieces]
    for piece, size in zip(pieces, sizes, strict=True):
        matrices = sum(p.dim() > 1 for p in piece.module.parameters())
        if matrices > 1 and size > sum(sizes) / 2 and chosen.keys().isdisjoint(piece.module.modules()):
            is_graph = isinstance(piece.module, torch.fx.GraphModule)
            advice = "write it as nn.Sequential" if is_graph else "name it in units= if that is meant"
            warnings.warn(
                f"module: {_dotted(piece)!r} is one block and holds {size / sum(sizes):.0%} of all weights, which "
                f"backpropagation trains inside; {advice}",
                stacklevel=3,
            )


def _check_weights(module: torch.nn.Module, pieces: Sequence[Piece]) -> None:
    """No piece holds the weights of another, nor those of all layers."""
    holder: dict[torch.Tensor, Piece] = {}
    for piece in pieces:
        for tensor in (*piece.module.parameters(), *piece.module.buffers()):
            first = holder.setdefault(tensor, piece)
            if first is not piece:
                raise ValueError(
                    f"module: {type(module).__name__} uses weights twice, in {_dotted(first)!r}, {_dotted(piece)!r}; "
                    "expected each layer once: write it as nn.Sequential, with one nn.Block around both uses"
                )
    blocks = [(piece, len(list(units_of(piece.module)))) for piece in pieces]
    blocks = [(piece, units) for piece, units in blocks if units]
    if len(blocks) == 1 and blocks[0][1] > 1:
        raise ValueError(
            f"module: all weights of {type(module).__name__} are in one block, {_dotted(blocks[0][0])!r}, which only "
            "backpropagation would train; expected a forward with places where exactly one tensor is live: write it as "
            "nn.Sequential of layers and nn.Block"
        )


def _dotted(piece: Piece) -> str:
    return ".".join(piece.path)


# Names: a chain of pieces becomes nested nn.Sequentials, whose state-dict keys are those of the module.


def _has_state(piece: Piece) -> bool:
    return any(True for _ in (*piece.module.parameters(), *piece.module.buffers()))


def _gather(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces; one without state between two of a container (an activation between two `layers`) moves into it."""
    after: list[tuple[str, ...] | None] = []
    following = None
    for piece in reversed(pieces):
        after.insert(0, following)
        following = piece.path[:-1] if _has_state(piece) else following
    gathered = []
    before: tuple[str, ...] | None = None
    for piece, following in zip(pieces, after, strict=True):
        parent = piece.path[:-1]
        if _has_state(piece):
            before = parent
        elif before and following and (around := _common(before, following)) != parent[: len(around)]:
            name = "_".join(piece.path[len(_common(parent, around)) :])
            piece = piece._replace(path=(*around, name))
        gathered.append(piece)
    return gathered


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _name_apart(pieces: Sequence[Piece]) -> list[Piece]:
    """A module without state that is used again gets another name for each use."""
    taken = {piece.path[:depth] for piece in pieces for depth in range(1, len(piece.path))}
    taken |= {piece.path for piece in pieces if _has_state(piece)}
    named = []
    for piece in pieces:
        path, uses = piece.path, 0
        while path in taken and not _has_state(piece):
            uses += 1
            path = (*piece.path[:-1], f"{piece.path[-1]}_{uses}")
        taken.add(path)
        named.append(piece._replace(path=path))
    return named


def _children(pieces: Sequence[Piece], training: bool, *, nested: bool = False) -> OrderedDict[str, torch.nn.Module]:
    """The children of a container by name, those with a longer path in containers of their own."""
    runs = [(head, list(run)) for head, run in groupby(pieces, key=lambda piece: piece.path[0])]
    visits = Counter(head for head, _ in runs)
    if max(visits.values(), default=0) > 1:
        return _children([_dissolved(piece, visits) for piece in pieces], training, nested=nested)
    reserved = dir(torch.nn.Sequential() if nested else nn.Sequential())
    children: OrderedDict[str, torch.nn.Module] = OrderedDict()
    for head, run in runs:
        name = f"{head}_" if head in reserved else head
        if len(run[0].path) == 1:
            children[name] = run[0].module
            continue
        inner = [piece._replace(path=piece.path[1:]) for piece in run]
        children[name] = torch.nn.Sequential(_children(inner, training, nested=True))
        children[name].training = training
    return children


def _dissolved(piece: Piece, visits: Counter[str]) -> Piece:
    """The piece out of its outermost container, if that is visited more than once: `convs.0` becomes `convs_0`."""
    if visits[piece.path[0]] == 1:
        return piece
    name = "_".join(piece.path[:2])
    while name in visits:
        name += "_"
    return piece._replace(path=(name, *piece.path[2:]))
