"""Find and read data files; every failure names the file, what was expected and where to get it."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastalign.errors import DataError, MissingDataError

ENVIRONMENT_VARIABLE = "FASTALIGN_DATA"


def data_directory(directory: str | os.PathLike[str] | None) -> Path:
    """The folder given, else that of the environment variable FASTALIGN_DATA."""
    chosen = directory or os.environ.get(ENVIRONMENT_VARIABLE)
    if not chosen:
        raise MissingDataError(f"no data folder: give --data DIR or set {ENVIRONMENT_VARIABLE}")
    path = Path(chosen)
    if not path.is_dir():
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
            if path.is_file():
                return path
    raise MissingDataError(
        f"{' or '.join(names)} is missing in {directory} (looked in: {', '.join(folders)}); get it from {source}"
    )


def read_bytes(path: Path, source: str) -> Tensor:
    """The content of a file, uncompressed if it is named .gz: (size,) uint8."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}); get it again from {source}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def check_labels(labels: Tensor, classes: int, path: Path, source: str) -> None:
    """Refuse labels outside 0…classes − 1."""
    wrong = (labels >= classes).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{path} has label {int(labels[first])} at sample {first}, expected 0 to {classes - 1}; "
            f"get it again from {source}"
        )
