"""The state of a run in one file, replaced as a whole."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from fastalign.bench.atomic import write_atomically
from fastalign.errors import RunError

FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint; on a failure the last one stays. Raises RunError if it cannot be written."""
    content = io.BytesIO()
    torch.save({"format": FORMAT, **state}, content)
    write_atomically(path, content.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint, on the CPU, read without running any code from the file.

    Raises:
        RunError: the file cannot be read, is damaged, or is of another format.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise RunError(f"{path} is damaged, expected a checkpoint of fastalign") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise RunError(f"{path} is not a checkpoint of format {FORMAT}")
    return state
