"""A recorded step as the extension runs it: one call from Python, whatever the number of kernels."""

from __future__ import annotations

import operator
import struct
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fastalign.ops import native


class NativeProgram:
    """A program of the extension: CPU kernels of fastalign, and the few ops of torch that dense networks need.

    Called, it gives no results where an input is of another shape, stride or dtype than when it was made, or a lasting
    tensor lies elsewhere.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._run = torch.ops.fastalign.run_program.default._op  # without the Python of a call
        weakref.finalize(self, torch.ops.fastalign.forget_program.default, number).atexit = False

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        results: list[Tensor] = self._run(self._number, inputs)
        return results


def native_program(graph: fx.Graph, inputs: Sequence[Tensor], lasting: Sequence[Tensor]) -> NativeProgram | None:
    """The program of a graph whose placeholders are inputs and lasting tensors; None where the extension has none."""
    if native.module is None or any(tensor.device.type != "cpu" for tensor in (*inputs, *lasting)):
        return None
    text = _Writer(graph).text()
    if text is None:
        return None
    letters = torch.frombuffer(bytearray(text, "ascii"), dtype=torch.uint8)
    number = torch.ops.fastalign.new_program(letters, list(inputs), list(lasting))
    return None if number < 0 else NativeProgram(number)


class _Writer:
    """Writes a graph as `csrc/cpu/replay.cpp` reads it."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._slots: dict[fx.Node, int] = {}

    def text(self) -> str | None:
        lines: list[str] = []
        done = self._last_reads()
        for node in self._graph.nodes:
            if node.op == "placeholder":
                self._new_slot(node)
            elif node.op == "output":
                lines.append(" ".join(["return", *(str(self._slots[result]) for result in node.args[0])]))
            elif node.target is not operator.getitem:
                words = [*self._arguments(node), "=", *self._results(node), ";", *map(self._slot, done[node])]
                if None in words:
                    return None
                lines.append(" ".join(map(str, words)))
        return "\n".join(lines)

    def _last_reads(self) -> dict[fx.Node, list[fx.Node]]:
        """What nobody reads after a call."""
        done: dict[fx.Node, list[fx.Node]] = {}
        read: set[fx.Node] = set()
        for node in reversed(self._graph.nodes):
            done[node] = [n for n in (*node.all_input_nodes, *_parts(node)) if n not in read and n.op != "placeholder"]
            read.update(node.all_input_nodes)
        return done

    def _new_slot(self, node: fx.Node) -> str:
        return str(self._slots.setdefault(node, len(self._slots)))

    def _slot(self, node: fx.Node) -> str:
        return str(self._slots[node])

    def _arguments(self, node: fx.Node) -> list[str | None]:
        """The op's name and its arguments, None for one that cannot be written."""
        schema: Any = node.target._schema  # type: ignore[union-attr]
        given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | node.kwargs
        values = [(str(a.type), given.get(a.name, a.default_value)) for a in schema.arguments]
        return [".".join(filter(None, (schema.name, schema.overload_name))), *(self._written(*v) for v in values)]

    def _written(self, kind: str, value: Any) -> str | None:
        """A value of a kind that a schema names."""
        if isinstance(value, fx.Node):
            return f"{'O' if kind.startswith('Optional') else 'T'}{self._slot(value)}"
        if value is None:
            return "N"
        if isinstance(value, torch.dtype):  # which schemas count among the numbers
            return None
        if kind in ("int", "bool", "Optional[int]"):
            return f"i{int(value)}"
        if kind in ("float", "number") or isinstance(value, float):
            return f"f{_bits(value)}"
        if kind == "List[Tensor]":
            return "L" + ",".join(map(self._slot, value))
        if kind == "List[int]":
            return "I" + ",".join(map(str, value))
        return "F" + ",".join(map(_bits, value)) if kind == "List[float]" else None

    def _results(self, node: fx.Node) -> list[str | None]:
        kinds = [str(result.type) for result in node.target._schema.returns]  # type: ignore[union-attr]
        slots = list(map(self._new_slot, _parts(node)))
        if kinds == ["List[Tensor]"]:
            return ["L" + ",".join(slots)]
        return [f"T{slot}" for slot in slots] if kinds == ["Tensor"] * len(slots) else [None]


def _parts(node: fx.Node) -> list[fx.Node]:
    """The tensors that a call gives, in order."""
    if node.op != "call_function" or node.target is operator.getitem:
        return []
    parts = [user for user in node.users if user.target is operator.getitem]  # in the order of the recording
    return parts or [node] * len(node.target._schema.returns)  # type: ignore[union-attr]


def _bits(number: float) -> str:
    """Of a double, as an integer, which no locale writes in its own way."""
    return str(struct.unpack("=q", struct.pack("=d", number))[0])
