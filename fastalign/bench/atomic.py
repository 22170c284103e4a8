"""Write a file whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from fastalign.errors import RunError

PREFIX = ".fastalign-"
"""How the names of temporary files begin."""


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replace a file by new content; after a failure or a kill at any moment the old file is there, untouched.

    A link in the file's place is replaced, never followed. A kill may leave a temporary file in the same folder, which
    `remove_temporary_files` finds by its name.

    Raises:
        RunError: the content cannot be written (a full disk, a folder that may not be written).
    """
    temporary = path.parent / f"{PREFIX}{secrets.token_hex(8)}"
    try:
        # With the user's usual permissions, which tempfile does not give; nobody can have put a link there before.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error


def remove_temporary_files(folder: Path) -> None:
    """Remove what killed processes left in a folder to which no other process writes now."""
    for left in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):
            left.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
