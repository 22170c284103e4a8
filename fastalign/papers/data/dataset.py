"""A data set as tensors on the device, and its batches as index gathers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Labelled images in one tensor.

    images: (N, channels, height, width), or (N, features) after `flatten`; uint8 as read, in [0, 1] after `to`.
    labels: (N,) int64, from 0 to classes − 1.
    """

    images: Tensor
    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Dataset:
        """The data set on a device, bytes scaled from 0…255 to [0, 1]."""
        images = self.images.to(device)
        images = images.to(dtype) if images.is_floating_point() else images.to(dtype).div_(255)
        return replace(self, images=images, labels=self.labels.to(device))

    def flatten(self) -> Dataset:
        """The data set with each image as one row of features."""
        return replace(self, images=self.images.flatten(1))


@dataclass(frozen=True)
class Splits:
    """The training and the test set of one source."""

    train: Dataset
    test: Dataset

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Splits:
        """Both sets on a device, bytes scaled to [0, 1]."""
        return Splits(self.train.to(device, dtype), self.test.to(device, dtype))

    def flatten(self) -> Splits:
        """Both sets with each image as one row of features."""
        return Splits(self.train.flatten(), self.test.flatten())

    def checksum(self) -> int:
        """A number that tells whether these are the same samples in the same order."""
        checksum = 0
        for tensor in (self.train.images, self.train.labels, self.test.images, self.test.labels):
            checksum = zlib.crc32(tensor.contiguous().numpy().data, checksum)
        return checksum


def shuffled(count: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
    """A permutation of 0…count − 1, (count,) int64, drawn on the CPU so that every device sees the same order."""
    return torch.randperm(count, generator=generator).to(device)


def batches(order: Tensor, batch_size: int, first: int = 0) -> Iterator[Tensor]:
    """The indices of each batch from number `first` on; the last batch is smaller where the size does not divide."""
    for start in range(first * batch_size, len(order), batch_size):
        yield order[start : start + batch_size]
