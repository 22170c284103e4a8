"""MNIST and Fashion-MNIST from their IDX files, raw or gzipped.

An IDX file: a magic number (two zero bytes, the type of the values: 8 for bytes, the number of dimensions), then each
dimension as a big-endian 32-bit integer, then the values, last dimension fastest.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fastalign.errors import DataError
from fastalign.papers.data.dataset import Dataset, Splits
from fastalign.papers.data.files import check_labels, find, opened, read_rest

CLASSES = 10
IMAGE_SIZE = (28, 28)
MOST_SAMPLES = 1 << 20
"""No set in this format comes near it; a header that says more is damaged, or means to fill the memory."""


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
    images = read_idx(images_path, IMAGE_SIZE, source.address)
    labels = read_idx(labels_path, (), source.address)
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path} has {len(labels)} labels, expected {len(images)}, the number of images in {images_path}; "
            f"get both again from {source.address}"
        )
    check_labels(labels, CLASSES, labels_path, source.address)
    return Dataset(images.unsqueeze(1), labels.long(), CLASSES)


def _find(directory: Path, source: Source, name: str) -> Path:
    return find(directory, source.folders, (name, f"{name}.gz"), source.address)


def read_idx(path: Path, sample: Sequence[int], address: str) -> Tensor:
    """The array in an IDX file of bytes, whose samples have the shape that is given; of labels, ().

    Raises:
        DataError: the magic number or the shape is another, or the size is not what the header says.
    """
    dimensions = 1 + len(sample)
    header = 4 * (1 + dimensions)
    with opened(path, address) as file:
        start = file.read(header)
        if start[:4] != bytes([0, 0, 8, dimensions]):
            raise DataError(
                f"{path} begins with {start[:4].hex() or 'an empty file'}, expected 000008{dimensions:02x}, the magic "
                f"number of an IDX file of bytes with {dimensions} dimension{'s' if dimensions > 1 else ''}; get it "
                f"again from {address}"
            )
        if len(start) < header:
            raise DataError(
                f"{path} holds {len(start)} bytes, expected a header of {header}; get it again from {address}"
            )
        shape = struct.unpack(f">{dimensions}I", start[4:])
        if shape[1:] != tuple(sample):
            found, expected = (" × ".join(map(str, size)) for size in (shape[1:], sample))
            raise DataError(f"{path} holds images of {found} pixels, expected {expected}")
        if not 1 <= shape[0] <= MOST_SAMPLES:
            raise DataError(f"{path} says that it holds {shape[0]} samples, expected 1 to {MOST_SAMPLES}")
        content = f"{' × '.join(map(str, shape))} values and the header"
        return read_rest(file, math.prod(shape), content, path, address).reshape(shape)
