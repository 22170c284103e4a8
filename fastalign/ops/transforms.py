"""Whether something looks on that would need derivatives or batching rules, which the kernels do not have."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor, maybe_current_level
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether a transform of torch.func (vmap, grad, jvp, ...) is under way."""
    return maybe_current_level() is not None


def is_batched(tensor: Tensor) -> bool:
    """Whether the tensor stands for a batch of tensors, as under vmap and `is_grads_batched`."""
    return is_transformed() or is_legacy_batchedtensor(tensor)


def have_tangents(tensors: Iterable[Tensor]) -> bool:
    """Whether one of the tensors is a dual tensor of forward-mode automatic differentiation."""
    return forward_ad._current_level >= 0 and any(map(_has_tangent, tensors))


def _has_tangent(tensor: Tensor) -> bool:
    try:
        return forward_ad.unpack_dual(tensor).tangent is not None
    except RuntimeError:  # of a tensor that is batched too, which cannot be asked
        return True
