"""Write a file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from fastalign.errors import RunError


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replace a file by new content; after a failure or a kill at any moment the old file is there, untouched.

    Raises:
        RunError: the content cannot be written (a full disk, a folder that may not be written).
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
