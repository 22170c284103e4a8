"""A module's hooks around what a kernel computes for it, in the order of a call of the module.

Hooks get tensors that raise an error when something is differentiated through them: no derivative leads from a value
within the network to its weights under a rule.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as _torch_module

from fastalign.engine.watch import GLOBAL_HOOKS, hooks_of

WITHIN = (
    "a value within the network was differentiated, but under its rule no derivative leads from there to the weights; "
    "take it without the gradient (detach), or set rule='bp'"
)


class PreHooked:
    """What forward pre-hooks made of a module's input, and the way back through what they did."""

    def __init__(self, x: Tensor, given: Tensor, received: tuple[Any, ...], changed: bool) -> None:
        self.input = x
        """The input as they left it."""
        self._given = given
        self._received: Tensor = received[0]
        self.arguments = received
        """What the module's forward hooks get as its input."""
        self.changed = changed
        """Whether they replaced it, or wrote to it other than through `.data`, of which derivatives know nothing."""

    def take_back(self, signal: Tensor) -> Tensor:
        """The signal at the input as it was before the hooks."""
        if not self.changed:
            return signal
        found: tuple[Tensor | None, ...] = (None,)
        if self._received.requires_grad:
            received = signal.reshape(self._received.shape).to(self._received.dtype)
            found = torch.autograd.grad(
                self._received, self._given, received, retain_graph=keeps_graph(), allow_unused=True
            )
        return torch.zeros_like(self._given) if found[0] is None else found[0]


def has_hooks(*modules: torch.nn.Module) -> bool:
    """Whether any of the modules has hooks, or torch has some for all modules."""
    return any(GLOBAL_HOOKS) or any(any(hooks_of(module)) for module in modules)


def call_pre_hooks(module: torch.nn.Module, x: Tensor) -> PreHooked:
    """Call a module's forward pre-hooks with a copy of its input, which they may replace or write to."""
    kind = type(module).__name__
    if any(hooks_of(module)[2:]) or any(GLOBAL_HOOKS[2:]):
        raise RuntimeError(
            f"{kind}: a backward hook on a module sees nothing under a rule; hook its parameters, or set rule='bp'"
        )
    given = handed_out(x)
    if not module._forward_pre_hooks and not GLOBAL_HOOKS[0]:
        return PreHooked(x, given, (given,), changed=False)
    with torch.enable_grad():
        copy = given.clone()  # another layer may have kept x
        version = copy._version
        arguments: Any = (copy,)
        keywords: Any = {}
        for key, hook in (*GLOBAL_HOOKS[0].items(), *module._forward_pre_hooks.items()):
            if key in module._forward_pre_hooks_with_kwargs:
                result = hook(module, arguments, keywords)
                if result is not None:
                    arguments, keywords = result
            else:
                result = hook(module, arguments)
                if result is not None:
                    arguments = result if isinstance(result, tuple) else (result,)
    if keywords or len(arguments) != 1 or not isinstance(arguments[0], Tensor):
        raise TypeError(f"{kind}: expected a forward pre-hook that returns one tensor, got {arguments} and {keywords}")
    if _reaches_parameters(arguments[0], given):
        raise RuntimeError(
            f"{kind}: a forward pre-hook computes with a parameter, which would not learn under a rule; expected it "
            "in a module of its own before this one, or rule='bp'"
        )
    changed = arguments[0] is not copy or copy._version != version
    return PreHooked(arguments[0].detach(), given, arguments, changed)


def _reaches_parameters(received: Tensor, given: Tensor) -> bool:
    """Whether what a hook made of a tensor depends on other leaves that require grad."""
    nodes, seen = [received.grad_fn], {given.grad_fn}
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if hasattr(node, "variable"):
            return True
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
    return False


def call_forward_hooks(module: torch.nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
    """Call a module's forward hooks with what was computed for it.

    Raises:
        RuntimeError: if one returns another value, or writes into this one.
    """
    with torch.enable_grad():
        given = handed_out(output)
        version = given._version
        for key, hook in (*GLOBAL_HOOKS[1].items(), *module._forward_hooks.items()):
            if key in module._forward_hooks_with_kwargs or key in _torch_module._global_forward_hooks_with_kwargs:
                result = hook(module, arguments, {}, given)
            else:
                result = hook(module, arguments, given)
            if (result is not None and result is not given) or given._version != version:
                raise RuntimeError(
                    f"{type(module).__name__}: a forward hook may look at a layer's value under a rule, not change it; "
                    "change it in a module of its own behind the layer, or set rule='bp'"
                )


def handed_out(tensor: Tensor) -> Tensor:
    """A tensor of the network as hooks get it."""
    if not tensor.is_floating_point():
        return tensor.detach()
    with torch.enable_grad():
        return undifferentiable(WITHIN, tensor.detach().requires_grad_())[0]


def undifferentiable(reason: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, none of them a leaf: a derivative that would go on behind them raises the reason."""
    if not tensors:
        return ()
    found = torch._C._functions.DelayedError(reason, len(tensors))(*tensors)
    return found if isinstance(found, tuple) else (found,)


def keeps_graph() -> bool:
    """Whether the backward pass under way was asked to retain its graph."""
    return torch._C._autograd._get_current_graph_task_keep_graph()
