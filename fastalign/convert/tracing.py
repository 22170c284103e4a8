"""The forward pass of a module as a chain of pieces, found by tracing it with torch.fx.

Between two pieces exactly one tensor is live. A piece is a module of the network as it is, a torch.nn module in the
place of a function (`F.relu` becomes `ReLU`), or a traced graph where the forward pass branches or calls a function
that has no module.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from fastalign.convert.tracer import Tracer, everything_is_recorded, reason_of
from fastalign.engine.hooks import has_hooks
from fastalign.engine.plan import is_chain
from fastalign.engine.untouched import Attributes, untouched
from fastalign.nn import Block, Sequential

_ADVICE = (
    "move that part into a module of its own, which stays whole, or write the network as nn.Sequential, with nn.Block "
    "around each part that is no chain"
)
_WRAPPING = "wrap it in a module whose forward takes one tensor and returns one, "

_MODULES: dict[str, tuple[type[torch.nn.Module], str]] = {
    "relu": (torch.nn.ReLU, ""),
    "tanh": (torch.nn.Tanh, ""),
    "sigmoid": (torch.nn.Sigmoid, ""),
    "leaky_relu": (torch.nn.LeakyReLU, "negative_slope"),
    "elu": (torch.nn.ELU, "alpha"),
    "softplus": (torch.nn.Softplus, "beta threshold"),
    "silu": (torch.nn.SiLU, ""),
    "gelu": (torch.nn.GELU, "approximate"),
    "softmax": (torch.nn.Softmax, "dim"),
    "log_softmax": (torch.nn.LogSoftmax, "dim"),
    "flatten": (torch.nn.Flatten, "start_dim end_dim"),
    "max_pool2d": (torch.nn.MaxPool2d, "kernel_size stride padding dilation ceil_mode return_indices"),
    "avg_pool2d": (torch.nn.AvgPool2d, "kernel_size stride padding ceil_mode count_include_pad divisor_override"),
    "adaptive_avg_pool2d": (torch.nn.AdaptiveAvgPool2d, "output_size"),
    "dropout": (torch.nn.Dropout, "p training"),
    "dropout2d": (torch.nn.Dropout2d, "p training"),
}
"""The module that does what a function or a method of this name does, and the function's arguments after the tensor."""


class NotAChainError(ValueError):
    """A forward pass that is not a chain of pieces, or that cannot be traced."""


class Piece(NamedTuple):
    """One piece of a forward pass."""

    path: tuple[str, ...]
    """The names of the modules around it, then its own."""
    module: torch.nn.Module


class Reshape(torch.nn.Flatten):
    """x.view(-1, *shape): a Flatten, if need be to several dimensions, whose sizes are known."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, input: Tensor) -> Tensor:
        """The input as (N, *shape)."""
        return input.reshape(-1, *self.shape)

    def extra_repr(self) -> str:
        return f"shape={self.shape}"


def chain_of(
    module: torch.nn.Module, path: tuple[str, ...] = (), units: Collection[torch.nn.Module] = ()
) -> list[Piece]:
    """The pieces of a module, in the order in which data flows through them.

    Modules of torch.nn are one piece, nn.Sequential is opened, any other forward is traced. A submodule is opened in
    turn where its forward is a chain of modules and functions without weights of its own; else it is one piece.

    Args:
        module: the module.
        path: the names of the modules around it and its own, empty for a network itself.
        units: submodules that are not to be opened.

    Raises:
        NotAChainError: if the forward cannot be traced, has several inputs or outputs, or differs between training and
            evaluation by more than dropout; inside a network also if it branches.
        ValueError: if it has hooks, which nothing would call any more.
    """
    is_network = not path
    if path and module in units:
        return [Piece(path, Block(module) if is_chain(module) else module)]
    is_sequence = isinstance(module, torch.nn.Sequential) and type(module).forward in (
        torch.nn.Sequential.forward,
        Sequential.forward,
    )
    is_own_network = not is_network and getattr(module, "rule", None) is not None
    if is_own_network or (not is_sequence and type(module).__module__.startswith(("torch.nn.", "fastalign.engine."))):
        return [Piece(path or ("0",), module)]
    if has_hooks(module):
        raise ValueError(
            f"module: {_name(module, path)} has hooks, which would not be called any more; "
            "expected none, register them on the converted network or on a layer"
        )
    if is_sequence:
        children = module._modules.items()
        return [piece for name, child in children if child is not None for piece in _open(child, (*path, name), units)]
    return _Trace(module, path, units).pieces()


def _open(module: torch.nn.Module, path: tuple[str, ...], units: Collection[torch.nn.Module]) -> list[Piece]:
    """The pieces of a submodule: itself where it is no chain."""
    try:
        return chain_of(module, path, units)
    except NotAChainError:
        return [Piece(path, module)]


def _name(module: torch.nn.Module, path: tuple[str, ...]) -> str:
    kind = type(module).__name__
    return f"{kind} {'.'.join(path)!r}" if path else kind


class _Trace:
    """The graph of a module's own forward, with modules in the place of functions that have one."""

    def __init__(self, module: torch.nn.Module, path: tuple[str, ...], units: Collection[torch.nn.Module]) -> None:
        self._module = module
        self._path = path
        self._units = units
        self._own: dict[str, Any] = {}  # modules made here, and constants, by target
        self._check_signature()
        self._graph = self._record_both_modes()
        self._refuse_writes_to_attributes()
        self._follow_in_place_writes()
        for node in list(self._graph.nodes):
            if (replacement := self._module_for(node)) is not None:
                self._replace(node, replacement)
        for node in reversed(list(self._graph.nodes)):
            if not node.users and node.op not in ("placeholder", "output"):
                self._graph.erase_node(node)

    def pieces(self) -> list[Piece]:
        """The pieces between the places where exactly one tensor is live."""
        found: list[Piece] = []
        source = next(iter(self._graph.nodes))
        for segment in self._segments():
            node = segment[-1]
            if node.op == "call_module" and node.args == (source,) and not node.kwargs:
                found += self._called(str(node.target))
            else:
                if self._path and (len(segment) > 1 or any(n.op == "get_attr" for n in node.all_input_nodes)):
                    raise self._error("it is no plain chain")
                if _stops_gradients(segment, source) and any(map(_has_weights, found)):
                    raise self._error("it detaches what the layers before give; freeze them by requires_grad_(False)")
                found.append(Piece((*self._path, self._free_name(node)), self._extract(segment, source)))
            source = node
        return found

    def _called(self, target: str) -> list[Piece]:
        path = (*self._path, *target.split("."))
        if target in self._own:
            return [Piece(path, self._own[target])]
        return _open(self._module.get_submodule(target), path, self._units)

    def _error(self, reason: str, advice: str = "") -> NotAChainError:
        name = _name(self._module, self._path)
        return NotAChainError(f"module: {name} cannot be converted: {reason}; {advice}{_ADVICE}")

    def _place_of_forward(self) -> str:
        code = getattr(inspect.unwrap(self._module.forward), "__code__", None)
        return "" if code is None else f", at {code.co_filename}, line {code.co_firstlineno}"

    # Recording

    def _check_signature(self) -> None:
        parameters = inspect.signature(self._module.forward).parameters.values()
        required = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
        if len(required) != 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters):
            inputs = ", ".join(map(str, parameters))
            raise self._error(f"expected a forward with one input, got ({inputs}){self._place_of_forward()}", _WRAPPING)

    def _record_both_modes(self) -> fx.Graph:
        """The graph; each dropout's `training` in the two modes is in its `meta`."""
        with untouched(self._module) as before:
            graph, constants = self._record(before, training=True)
            evaluation, others = self._record(before, training=False)
        same = [*map(_described, graph.nodes)] == [*map(_described, evaluation.nodes)]
        if not same or not all(torch.equal(constants[name], others[name]) for name in constants):
            raise self._error(
                "its forward differs between two calls, one in training and one in evaluation mode, by more than "
                "F.dropout(…, training=self.training)"
            )
        for node, other in zip(graph.nodes, evaluation.nodes, strict=True):
            node.meta["training"] = node.kwargs.get("training"), other.kwargs.get("training")
        self._own.update(constants)
        return graph

    def _record(self, before: Attributes, training: bool) -> tuple[fx.Graph, dict[str, Tensor]]:
        """The graph, and the tensors that forward made; the module's attributes are as before."""
        self._module.training = training
        try:
            with everything_is_recorded():
                graph = Tracer(self._module).trace(self._module)
            changes = [name for name in before.changes() if name != "training"]
            made = {name: vars(self._module)[name] for name in changes if name.startswith("_tensor_constant")}
        except Exception as error:
            raise self._error(reason_of(error)) from error
        finally:
            before.restore()
        if others := [name for name in changes if name not in made]:
            what = f"its forward changes its attribute {others[0]!r}, which would not happen any more"
            raise self._error(what + self._place_of_forward())
        return graph, made

    def _refuse_writes_to_attributes(self) -> None:
        """A graph would keep a write to a buffer or a weight only where something reads its result."""
        for node in self._graph.nodes:
            written = (
                node.kwargs["out"] if "out" in node.kwargs else node.args[0] if self._writes_in_place(node) else None
            )
            while isinstance(written, fx.Node) and written.op != "get_attr":
                is_view = self._writes_in_place(written) or _name_of(written) in _VIEWS
                written = written.args[0] if is_view else None
            if isinstance(written, fx.Node):
                what = f"its forward writes to {written.target!r} in place, which would not happen any more"
                raise self._error(what + self._place_of_forward())

    # Modules in the place of functions

    def _follow_in_place_writes(self) -> None:
        """Who uses a tensor after it was written to in place uses the result of the writing."""
        nodes = list(self._graph.nodes)
        for i, node in enumerate(nodes):
            if self._writes_in_place(node):
                later = set(nodes[i + 1 :])
                node.args[0].replace_all_uses_with(node, delete_user_cb=later.__contains__)

    def _writes_in_place(self, node: fx.Node) -> bool:
        if not node.args or not isinstance(node.args[0], fx.Node):
            return False
        if node.op == "call_module":
            return bool(getattr(self._attribute(str(node.target)), "inplace", False))
        name = _function_name(node)
        return bool(node.kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__"))

    def _replace(self, node: fx.Node, module: torch.nn.Module) -> None:
        target = self._free_name(node)
        self._own[target] = module.train(self._module.training)
        node.op, node.target, node.args, node.kwargs = "call_module", target, (node.args[0],), {}

    def _free_name(self, node: fx.Node) -> str:
        name = node.name
        while hasattr(self._module, name) or name in self._own:
            name += "_"
        return name

    def _module_for(self, node: fx.Node) -> torch.nn.Module | None:
        """The torch.nn module that does what a call does, if there is one."""
        if node.op not in ("call_function", "call_method"):
            return None
        name = _function_name(node).removesuffix("_")
        if name in ("view", "reshape"):
            return self._reshape(node)
        if name not in _MODULES:
            return None
        kind, names = _MODULES[name]
        arguments = dict(zip(names.split(), node.args[1:], strict=False)) | dict(node.kwargs)
        for irrelevant in ("inplace", "_stacklevel"):
            arguments.pop(irrelevant, None)
        arguments = {name: value for name, value in arguments.items() if value is not None}
        if not set(arguments) <= set(names.split()) or arguments.pop("return_indices", False):
            return None
        if any(isinstance(value, fx.Node) for value in arguments.values()):
            return None
        if name.startswith("dropout"):
            return self._dropout(node, kind, arguments)
        if name == "flatten":
            arguments.setdefault("start_dim", 0)
        return kind(**arguments)

    def _dropout(self, node: fx.Node, kind: type[torch.nn.Module], arguments: dict[str, Any]) -> torch.nn.Module:
        arguments.pop("training", None)
        if node.meta["training"] == (False, False):
            return torch.nn.Identity()
        if node.meta["training"] != (True, False):
            raise self._error(f"F.{_function_name(node)} drops in evaluation too, expected training=self.training")
        return kind(**arguments)

    def _reshape(self, node: fx.Node) -> torch.nn.Module | None:
        """x.view(N, -1), or a view as (N, …) or (-1, …) whose other sizes are numbers."""
        x, *shape = node.args
        if len(shape) == 1 and isinstance(shape[0], tuple | list):
            shape = list(shape[0])
        if len(shape) < 2 or not isinstance(x, fx.Node):
            return None
        batch, *sizes = shape
        if batch != -1 and not self._is_batch_size(batch, x):
            return None
        if batch != -1 and sizes == [-1]:
            return torch.nn.Flatten()
        if all(isinstance(size, int) and size > 0 for size in sizes):
            return Reshape(*sizes)  # type: ignore[arg-type]
        return None

    def _is_batch_size(self, size: Any, x: fx.Node) -> bool:
        """Whether a value is the size of x's first dimension, taken from x or from a tensor before it in the chain."""
        measured = _measured(size)
        while measured is not None:
            if x is measured:
                return True
            if x.op != "call_module" or not isinstance(x.args[0], fx.Node):
                return False
            module = self._attribute(str(x.target))
            if isinstance(module, Reshape) or (isinstance(module, torch.nn.Flatten) and module.start_dim == 0):
                return False
            x = x.args[0]
        return False

    # Cutting

    def _segments(self) -> list[list[fx.Node]]:
        """The nodes that depend on the input, cut after each whose value is then the only live one."""
        source, *inner, output = self._graph.nodes
        if not isinstance(output.args[0], fx.Node):
            kind = type(output.args[0]).__name__.removeprefix("immutable_")
            reason = f"expected a forward that returns one tensor, got {kind}{self._place_of_forward()}"
            raise self._error(reason, _WRAPPING)
        position = {node: i for i, node in enumerate(self._graph.nodes)}
        depends, live = {source}, {source}
        segments: list[list[fx.Node]] = [[]]
        for node in inner:
            if depends.isdisjoint(node.all_input_nodes):
                continue
            depends.add(node)
            segments[-1].append(node)
            live = {other for other in live | {node} if any(position[user] > position[node] for user in other.users)}
            if live == {node} and not any(map(_takes_apart, node.users)):
                segments.append([])
        return segments[:-1]

    def _extract(self, segment: list[fx.Node], source: fx.Node) -> fx.GraphModule:
        """A module of its own for some nodes; weights and submodules are the same objects."""
        graph = fx.Graph()
        entry = graph.placeholder("x")
        if any(self._writes_in_place(node) and node.args[0] is source for node in segment):
            entry = graph.call_method("clone", (entry,))
        copies = {source: entry}

        def copy(node: fx.Node) -> fx.Node:
            if node not in copies:
                copies[node] = graph.node_copy(node, copy)
            return copies[node]

        graph.output([copy(node) for node in segment][-1])
        targets = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
        piece = fx.GraphModule({target: self._attribute(target) for target in targets}, graph)
        piece.training = self._module.training
        return piece

    def _attribute(self, target: str) -> Any:
        return self._own[target] if target in self._own else operator.attrgetter(target)(self._module)


_VIEWS = (
    *(
        "data",
        "T",
        "mT",
        "getitem",
        "detach",
        "view",
        "view_as",
        "reshape",
        "flatten",
        "squeeze",
        "unsqueeze",
        "expand",
    ),
    *("t", "transpose", "permute", "narrow", "select"),
)
"""Attributes, functions and methods whose result may be a view of a tensor."""


def _has_weights(piece: Piece) -> bool:
    return any(True for _ in piece.module.parameters())


def _stops_gradients(segment: list[fx.Node], source: fx.Node) -> bool:
    """Whether no gradient of a segment's value can reach what it comes from, because all of it is detached."""
    reached = {source}
    for node in segment:
        if _name_of(node) not in ("detach", "detach_", "data") and not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
    return segment[-1] not in reached


def _name_of(node: fx.Node) -> str:
    """The name of a method, a function or an attribute that is read."""
    if node.target is getattr:
        return str(node.args[1])
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _function_name(node: fx.Node) -> str:
    """The name of a method, or of a function of torch; empty for any other function."""
    if isinstance(node.target, str):
        return node.target
    name = getattr(node.target, "__name__", "")
    return name if node.target in (getattr(F, name, None), getattr(torch, name, None)) else ""


def _measured(size: Any) -> fx.Node | None:
    """The tensor whose first dimension a value measures: x.size(0), x.shape[0], x.size()[0]."""
    if not isinstance(size, fx.Node):
        return None
    if size.op == "call_method" and size.target == "size":
        first = size.args[1:] == (0,) or dict(size.kwargs) == {"dim": 0}
        return _as_node(size.args[0]) if first else None
    if size.target is not operator.getitem or size.args[1] != 0 or not isinstance(size.args[0], fx.Node):
        return None
    shape = size.args[0]
    if (shape.target is getattr and shape.args[1] == "shape") or (shape.target == "size" and len(shape.args) == 1):
        return _as_node(shape.args[0])
    return None


def _as_node(value: Any) -> fx.Node | None:
    return value if isinstance(value, fx.Node) else None


def _takes_apart(node: fx.Node) -> bool:
    """Whether a node takes one of several values, so that what it takes it from may be no tensor."""
    return node.target is getattr or (node.target is operator.getitem and isinstance(node.args[1], int))


def _described(node: fx.Node) -> tuple[Any, ...]:
    """What a node does, but for whether a dropout drops."""
    kwargs: Mapping[str, Any] = node.kwargs
    if _function_name(node).startswith("dropout"):
        kwargs = {name: value for name, value in kwargs.items() if name != "training"}
    return node.op, node.target, str(node.args), str(kwargs)
