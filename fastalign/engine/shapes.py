"""Views of tensors in other shapes; the tensor itself where it has that shape, which costs less than a view."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def as_matrix(tensor: Tensor) -> Tensor:
    """(…, features) as (rows, features): a row for each sample, or for each position of each sample."""
    return tensor if tensor.dim() == 2 else tensor.reshape(-1, tensor.shape[-1])


def in_shape(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The tensor in this shape."""
    return tensor if tensor.shape == shape else tensor.reshape(shape)
