"""MNIST and Fashion-MNIST from their IDX files, raw or gzipped.

An IDX file: a magic number (two zero bytes, the type of the values: 8 for bytes, the number of dimensions), then each
dimension as a big-endian 32-bit integer, then the values, last dimension fastest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fastalign.errors import DataError
from fastalign.papers.data.dataset import Dataset, Splits
from fastalign.papers.data.files import check_labels, find, read_bytes

CLASSES = 10
IMAGE_SIZE = (28, 28)


@dataclass(frozen=True)
class Source:
    """Where a data set in IDX files lies below the data folder, and where it can be had."""

    folders: Sequence[str]
    address: str


MNIST = Source(("mnist", "MNIST/raw", "raw", "."), "https://ossci-datasets.s3.amazonaws.com/mnist/")
FASHION_MNIST = Source(
    ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw", "raw", "."),
    "https://github.com/zalandoresearch/fashion-mnist",
)


def load(directory: Path, source: Source) -> Splits:
    """Read the four IDX files: images (N, 1, 28, 28) uint8."""
    return Splits(train=_load_part(directory, source, "train"), test=_load_part(directory, source, "t10k"))


def _load_part(directory: Path, source: Source, part: str) -> Dataset:
    images_path = _find(directory, source, f"{part}-images-idx3-ubyte")
    labels_path = _find(directory, source, f"{part}-labels-idx1-ubyte")
    images = read_idx(images_path, 3, source.address)
    labels = read_idx(labels_path, 1, source.address)
    if tuple(images.shape[1:]) != IMAGE_SIZE:
        height, width = images.shape[1:]
        raise DataError(f"{images_path} holds images of {height} × {width} pixels, expected 28 × 28")
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path} has {len(labels)} labels, expected {len(images)}, the number of images in {images_path}; "
            f"get both again from {source.address}"
        )
    check_labels(labels, CLASSES, labels_path, source.address)
    return Dataset(images.unsqueeze(1), labels.long(), CLASSES)


def _find(directory: Path, source: Source, name: str) -> Path:
    return find(directory, source.folders, (name, f"{name}.gz"), source.address)


def read_idx(path: Path, dimensions: int, address: str) -> Tensor:
    """The array in an IDX file of bytes, with the number of dimensions that is expected.

    Raises:
        DataError: the magic number is another, or the size is not what the header says.
    """
    content = read_bytes(path, address)
    header = 4 * (1 + dimensions)
    magic = content[:4].tolist()
    if magic != [0, 0, 8, dimensions]:
        found = "".join(f"{byte:02x}" for byte in magic) or "an empty file"
        raise DataError(
            f"{path} begins with {found}, expected 000008{dimensions:02x}, the magic number of an IDX file of bytes "
            f"with {dimensions} dimension{'s' if dimensions > 1 else ''}; get it again from {address}"
        )
    shape = [int.from_bytes(bytes(content[at : at + 4].tolist()), "big") for at in range(4, header, 4)]
    expected = header + math.prod(shape)
    if len(content) < header or len(content) != expected:
        raise DataError(
            f"{path} holds {len(content)} bytes{' uncompressed' if path.suffix == '.gz' else ''}, expected {expected} "
            f"({' × '.join(map(str, shape))} values and the header); get it again from {address}"
        )
    return content[header:].reshape(shape)
