"""CIFAR-10 and CIFAR-100 from their official binary files.

A record: the label (CIFAR-100: the coarse label, then the fine label, which is the one used here), one byte each, then
3072 pixels, one byte each: 32 × 32 red, green, blue. Files hold 10,000 records, the training file of CIFAR-100 50,000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fastalign.papers.data.dataset import Dataset, Splits
from fastalign.papers.data.files import check_labels, find, opened, read_rest

IMAGE_SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Source:
    """Where the binary files lie below the data folder, what they hold, and where they can be had."""

    folders: Sequence[str]
    train_files: Sequence[str]
    test_files: Sequence[str]
    train_records: int
    test_records: int
    classes: int
    label_bytes: int
    address: str


CIFAR10 = Source(
    folders=("cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "cifar10", "."),
    train_files=tuple(f"data_batch_{batch}.bin" for batch in range(1, 6)),
    test_files=("test_batch.bin",),
    train_records=10_000,
    test_records=10_000,
    classes=10,
    label_bytes=1,
    address="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
)
CIFAR100 = Source(
    folders=("cifar-100-binary", "cifar100/cifar-100-binary", "cifar100", "."),
    train_files=("train.bin",),
    test_files=("test.bin",),
    train_records=50_000,
    test_records=10_000,
    classes=100,
    label_bytes=2,
    address="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
)


def load(directory: Path, source: Source) -> Splits:
    """Read the binary files: images (N, 3, 32, 32) uint8."""
    return Splits(
        train=_load_files(directory, source, source.train_files, source.train_records),
        test=_load_files(directory, source, source.test_files, source.test_records),
    )


def _load_files(directory: Path, source: Source, names: Sequence[str], records: int) -> Dataset:
    parts = [_load_file(directory, source, name, records) for name in names]
    return Dataset(
        torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]), source.classes
    )


def _load_file(directory: Path, source: Source, name: str, records: int) -> Dataset:
    path = find(directory, source.folders, (name,), source.address)
    record = source.label_bytes + PIXELS
    with opened(path, source.address) as file:
        words = f"{records} records of {record} bytes"
        content = read_rest(file, records * record, words, path, source.address).reshape(records, record)
    labels = content[:, source.label_bytes - 1].long()
    check_labels(labels, source.classes, path, source.address)
    return Dataset(content[:, source.label_bytes :].reshape(records, *IMAGE_SHAPE), labels, source.classes)
