"""The state of a run in one file, replaced as a whole.

The file is a first line, the SHA-256 checksum of what follows, and what torch.save writes. The version before this one
wrote what torch.save writes and nothing else, which begins like a zip archive: so a file whose first line is damaged
is no older file.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastalign.bench.atomic import write_atomically
from fastalign.errors import RunError, UserError
from fastalign.papers.runs.loop import TrainerState
from fastalign.papers.runs.settings import Settings
from fastalign.papers.runs.typed import as_type

FORMAT = 2
FORMAT_WITHOUT_CHECKSUM = 1
FIRST_LINE = b"fastalign checkpoint\n"
HEADER = len(FIRST_LINE) + hashlib.sha256().digest_size
ZIP_ARCHIVE = b"PK\x03\x04"


@dataclass(frozen=True)
class SavedRun:
    """What a checkpoint belongs to. metrics_checksum: of the lines of `metrics.jsonl` up to its epoch."""

    settings: Settings
    data_checksum: int
    metrics_checksum: str


class Checkpoint(TrainerState, total=False):
    """What is in the file; `run` is missing in one without checksum."""

    format: int
    run: SavedRun


def save_checkpoint(path: Path, state: TrainerState, run: SavedRun) -> None:
    """Replace the checkpoint; on a failure the last one stays. Raises RunError if it cannot be written."""
    file = io.BytesIO(FIRST_LINE.ljust(HEADER))
    file.seek(HEADER)
    torch.save({**state, "format": FORMAT, "run": asdict(run)}, file)
    content = file.getbuffer()
    content[len(FIRST_LINE) : HEADER] = hashlib.sha256(content[HEADER:]).digest()
    write_atomically(path, content)


def load_checkpoint(path: Path) -> Checkpoint:
    """The state of a checkpoint, on the CPU, read without running any code from the file.

    Raises:
        RunError: the file cannot be read, is damaged, is of another format or holds something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    format, saved = _checked(content, path)
    try:
        state = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
    except Exception as error:  # There is no end to what torch raises at bytes that it did not write.
        raise RunError(f"{path} is damaged, expected a checkpoint of fastalign") from error
    if not isinstance(state, dict) or state.get("format") != format:
        raise RunError(f"{path} is not a checkpoint of format {format}")
    try:
        checkpoint: Checkpoint = as_type(state, Checkpoint, "")
        _check_tensors(checkpoint["model"])
        if format == FORMAT and "run" not in checkpoint:
            raise ValueError("run: missing")
    except (ValueError, UserError) as error:
        raise RunError(f"{path} is damaged, expected a checkpoint of fastalign: {error}") from error
    return checkpoint


def _check_tensors(model: dict[str, Tensor]) -> None:
    """Refuse what takes memory, or fails, only where it is used: a tensor that is larger than what was saved of it."""
    for name, tensor in model.items():
        plain = type(tensor) is Tensor and tensor.layout is torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ValueError(f"model.{name}: expected a tensor with all its elements")


def _checked(content: bytes, path: Path) -> tuple[int, bytes]:
    """The format that a file is in, and what torch.save wrote into it."""
    if content.startswith(FIRST_LINE):
        saved = content[HEADER:]
        if hashlib.sha256(saved).digest() != content[len(FIRST_LINE) : HEADER]:
            raise RunError(f"{path} is damaged: its bytes do not have the checksum that it was saved with")
        return FORMAT, saved
    if content.startswith(ZIP_ARCHIVE):
        return FORMAT_WITHOUT_CHECKSUM, content
    raise RunError(f"{path} is damaged, expected a checkpoint of fastalign")
