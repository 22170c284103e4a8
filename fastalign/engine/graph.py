"""The graph that autograd has recorded."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.autograd.graph import Node


def nodes_behind(output: Tensor) -> Iterator[Node]:
    """Yield the nodes of the graph behind a tensor, each once."""
    seen: set[Node] = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [below for below, _ in node.next_functions]


def leaf_of(node: Node) -> Tensor | None:
    """Return the tensor to which a node gives a gradient; None for a node that computes."""
    leaf: Tensor | None = getattr(node, "variable", None)
    return leaf if node.name() == "torch::autograd::AccumulateGrad" else None
