"""Gradients of a module that a rule would lose, because they go another way than through the module's parameters.

A network runs a module on stand-ins for its parameters and differentiates with respect to those. What the module
reaches otherwise than as its attributes, and what runs a backward pass of its own, sees none of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

import torch
from torch import Tensor

from fastalign.engine.graph import leaf_of, nodes_behind
from fastalign.engine.layers import Block
from fastalign.engine.plan import has_own_forward

_EXAMINED: WeakSet[torch.nn.Module] = WeakSet()
"""Modules of which a graph was looked through, and every parameter had its gradient."""
_REENTRANT = "None of the inputs have requires_grad=True"
"""What torch warns of where a reentrant checkpoint has no input to which it could attach its backward pass."""


def is_examined(module: torch.nn.Module) -> bool:
    """Return whether `examine` has found no gradient that would be lost, or the module runs no code of a user's own."""
    return module in _EXAMINED or not any(map(has_own_forward, module.modules()))


def examine_again(module: torch.nn.Module) -> None:
    """Have the next step look at the module's graph, because a parameter had no gradient."""
    _EXAMINED.discard(module)


@contextmanager
def refusing_checkpoints(module: torch.nn.Module) -> Iterator[None]:
    """Refuse a reentrant checkpoint that no graph would show, because nothing that it is given requires a gradient."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=_REENTRANT)
        try:
            yield
        except UserWarning as warning:
            if not str(warning).startswith(_REENTRANT):
                raise
            raise _refused_checkpoint(module) from warning


def examine(module: torch.nn.Module, output: Tensor) -> None:
    """Look through the graph behind a module's output.

    Raises:
        RuntimeError: for a reentrant checkpoint, or a parameter that it reaches otherwise than as its attribute.
    """
    for node in nodes_behind(output):
        parameter = leaf_of(node)
        if isinstance(parameter, torch.nn.Parameter):
            names = [name for name, p in module.named_parameters() if p is parameter]
            what = repr(names[0]) if names else f"one of shape {tuple(parameter.shape)} that it does not hold"
            raise RuntimeError(
                f"{_named(module)}: its forward reaches a parameter, {what}, otherwise than as an attribute of the "
                "module (by a list, a closure, functools.partial), so a rule would leave it without a gradient; "
                "expected forward to look the attribute up, or a torch.nn.ParameterList"
            )
        if node.name() == "CheckpointFunctionBackward":
            raise _refused_checkpoint(module)
    _EXAMINED.add(module)


def _refused_checkpoint(module: torch.nn.Module) -> RuntimeError:
    return RuntimeError(
        f"{_named(module)}: torch.utils.checkpoint with use_reentrant=True runs a backward pass of its own, past the "
        "rule; expected use_reentrant=False"
    )


def _named(module: torch.nn.Module) -> str:
    name = type(module).__name__
    return f"{name}({type(module.module).__name__})" if isinstance(module, Block) else name
