"""Find and read data files; every failure names the file, what was expected and where to get it."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from fastalign.errors import DataError, MissingDataError

ENVIRONMENT_VARIABLE = "FASTALIGN_DATA"
CHUNK = 1 << 20
"""The most bytes that are read at once: a file may hold fewer than its header says."""


def data_directory(directory: str | os.PathLike[str] | None) -> Path:
    """The folder given, else that of the environment variable FASTALIGN_DATA."""
    chosen = directory or os.environ.get(ENVIRONMENT_VARIABLE)
    if not chosen:
        raise MissingDataError(f"no data folder: give --data DIR or set {ENVIRONMENT_VARIABLE}")
    path = Path(chosen)
    if not os.path.isdir(path):  # False for a name that no file can have, at which Path.is_dir raises
        raise MissingDataError(f"the data folder {path} is not a folder")
    return path


def find(directory: Path, folders: Sequence[str], names: Sequence[str], source: str) -> Path:
    """The first of the files `names` in the first of `folders` (paths below `directory`) that has one.

    Raises:
        MissingDataError: none is there; says which names were sought in which folders, and where to get them.
    """
    for folder in folders:
        for name in names:
            path = directory / folder / name
            if os.path.isfile(path):
                return path
    raise MissingDataError(
        f"{' or '.join(names)} is missing in {directory} (looked in: {', '.join(folders)}); get it from {source}"
    )


@contextmanager
def opened(path: Path, source: str) -> Iterator[BinaryIO]:
    """Open a file, one named .gz uncompressed, and turn what is raised at reading it into a DataError."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}); get it again from {source}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def read_rest(file: BinaryIO, expected: int, content: str, path: Path, source: str) -> Tensor:
    """Read the rest of a file, (expected,) uint8, and no more than a byte beyond, however much there is.

    content: what the file is to hold, for the error.

    Raises:
        DataError: the file holds fewer bytes, or more.
    """
    before = file.tell()
    found = bytearray()
    while chunk := file.read(min(CHUNK, expected + 1 - len(found))):
        found += chunk
    if len(found) != expected:
        size = f"{'at least ' * (len(found) > expected)}{before + len(found)} bytes"
        raise DataError(
            f"{path} holds {size}{' uncompressed' if path.suffix == '.gz' else ''}, expected {before + expected} "
            f"({content}); get it again from {source}"
        )
    return torch.frombuffer(found, dtype=torch.uint8)


def check_labels(labels: Tensor, classes: int, path: Path, source: str) -> None:
    """Refuse labels outside 0…classes − 1."""
    wrong = (labels >= classes).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{path} has label {int(labels[first])} at sample {first}, expected 0 to {classes - 1}; "
            f"get it again from {source}"
        )
