"""Data sets by name, read from their official files into one tensor each."""

from __future__ import annotations

import os

from fastalign.errors import DataError
from fastalign.papers.data import cifar, digits, idx
from fastalign.papers.data.dataset import Dataset, Splits, batches, shuffled
from fastalign.papers.data.files import data_directory
from fastalign.papers.data.whitening import whitened

__all__ = ["DATASETS", "DataError", "Dataset", "Splits", "batches", "load", "needs", "shuffled", "whitened"]

_IDX = {"mnist": idx.MNIST, "fashion-mnist": idx.FASHION_MNIST}
_CIFAR = {"cifar10": cifar.CIFAR10, "cifar100": cifar.CIFAR100}
DATASETS = ("digits", *_IDX, *_CIFAR)


def load(name: str, directory: str | os.PathLike[str] | None = None) -> Splits:
    """The training and test set of a data set, as read (images in bytes; digits in [0, 1]).

    directory: the folder with the files, or with a subfolder such as `mnist`, `MNIST/raw` or `cifar-10-batches-bin`;
    by default that of the environment variable FASTALIGN_DATA. The built-in set `digits` needs none.

    Raises:
        DataError: a file is missing, truncated, corrupt or mislabelled.
        MissingPackageError: `digits` without scikit-learn.
        ValueError: no data set has this name.
    """
    if name == "digits":
        return digits.load()
    if name in _IDX:
        return idx.load(data_directory(directory), _IDX[name])
    if name in _CIFAR:
        return cifar.load(data_directory(directory), _CIFAR[name])
    raise ValueError(f"name is {name!r}, expected one of {', '.join(DATASETS)}")


def needs(name: str) -> str:
    """What a data set asks of the machine, in words."""
    if name == "digits":
        return "scikit-learn"
    return f"--data DIR with {name}"
