"""The modules of a network run a second time, for derivatives of BP's gradients (create_graph=True)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from fastalign.engine.links import is_stochastic
from fastalign.engine.plan import Stage


def output_again(
    stages: Sequence[Stage], x: Tensor, parameters: Sequence[Tensor], autocast: torch.dtype | bool
) -> Tensor:
    """The network's output as its modules compute it, differentiated by autograd.

    Args:
        stages: the network's.
        x: its input.
        parameters: those that the first run had, in the order of the stages; none if they are to have no gradients.
        autocast: the dtype of autocast in the first run, False without.

    Raises:
        RuntimeError: for a module that draws random numbers, or changes its buffers, and so computes something else.
    """
    current = dict.fromkeys(p for stage in stages for p in stage.parameters())
    given = dict(zip(current, parameters, strict=bool(parameters)))
    dtype = autocast if isinstance(autocast, torch.dtype) else None
    with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
        for stage in stages:
            for module in stage.modules():
                x = _call_again(module, x, given)
    return x


def _call_again(module: torch.nn.Module, x: Tensor, given: dict[Tensor, Tensor]) -> Tensor:
    for part in module.modules():
        if part.training and any(buffer is not None for buffer in part._buffers.values()):
            kind = type(part).__name__
            raise RuntimeError(f"{_AGAIN.format(kind)}, which would change its buffers twice; {_WAY_OUT}")
    before = _random_state(x)
    own = {name: given.get(p, p) for name, p in module.named_parameters(remove_duplicate=False)}
    output: Tensor = functional_call(module, own, (x,)) if own else module(x)
    if not torch.equal(before, _random_state(x)):
        drawing = next((part for part in module.modules() if is_stochastic(part)), module)
        raise RuntimeError(f"{_AGAIN.format(type(drawing).__name__)}, which draws other random numbers; {_WAY_OUT}")
    return output


_AGAIN = "{}: create_graph=True runs the modules of a network under BP a second time"
_WAY_OUT = "set the module to eval mode, or call torch.nn.Sequential(*network)"


def _random_state(x: Tensor) -> Tensor:
    """The state of the generator that a module draws from for such an input."""
    return torch.cuda.get_rng_state(x.device) if x.is_cuda else torch.get_rng_state()
