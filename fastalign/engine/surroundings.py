"""What around a network keeps kernels from standing in for its modules: it gives them other weights, or derivatives."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from torch import Tensor
from torch.nn import Parameter

from fastalign.engine.plan import Stage
from fastalign.ops.transforms import have_tangents, is_transformed

REPLICA = (
    "network: its replicas in nn.DataParallel have no parameters, to which a rule could give updates; use "
    "DistributedDataParallel"
)
TRANSFORMED = (
    "network: a rule's updates come from backward(), and have no transform of torch.func (vmap, grad, jacrev, jvp) and "
    "no forward-mode derivative; call the network under torch.no_grad() for its outputs alone, or set rule='bp'"
)
_SHARDED = "its parameters are sharded; shard the whole network in one (fully_shard(network)), or set rule='bp'"
_OFFLOADED = "its parameters are offloaded to the meta device and come with the call; keep them in memory to train it"
_ELSEWHERE = (
    "its weight is computed from others since the rule was set; call set_rule again. If a wrapper brings it with the "
    "call (FSDP1), shard the whole network with fully_shard instead, or set rule='bp'"
)


def obstacle(stages: Sequence[Stage], x: Tensor, hooked: bool) -> str | None:
    """What keeps a rule from a step, and the way out; None where nothing does."""
    if is_transformed() or have_tangents([x]):
        return TRANSFORMED
    if have_tangents(p for stage in stages for p in stage.parameters()):
        return TRANSFORMED
    for stage in stages:
        layer = stage.layer
        if stage.native is not None:
            weight = stage.native._parameters.get("weight")
            if type(weight) is Parameter or type(weight) is Tensor:
                continue
            if weight is None:
                return f"{layer}: {_ELSEWHERE}"
        elif layer is None:
            continue
        if _are_sharded(stage.parameters()):
            return f"{layer}: {_SHARDED}"
        if stage.native is None and not x.is_meta and any(p.is_meta for p in stage.parameters()):
            return f"{layer}: {_OFFLOADED}"
    if hooked and _are_sharded(p for stage in stages for p in stage.parameters()):
        return f"network: {_SHARDED}"
    return None


def _are_sharded(parameters: Iterable[Tensor]) -> bool:
    distributed = sys.modules.get("torch.distributed.tensor")
    return distributed is not None and any(isinstance(p, distributed.DTensor) for p in parameters)
