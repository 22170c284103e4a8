"""The metrics log: one JSON object a line, one line an epoch."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastalign.analysis.metrics import Metrics
from fastalign.bench.atomic import write_atomically
from fastalign.errors import RunError
from fastalign.papers.runs.typed import from_json


class MetricsLog:
    """The file `metrics.jsonl` of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, metrics: Metrics) -> None:
        """Add a line and bring it to the disk; a line that does not fit is taken back.

        Raises:
            RunError: the file cannot be written.
        """
        line = (json.dumps(_to_json(metrics)) + "\n").encode()
        try:
            with open(self.path, "ab", buffering=0, opener=_without_following) as file:
                before = file.seek(0, os.SEEK_END)
                try:
                    if file.write(line) < len(line):
                        raise OSError(0, "No space left on device")
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(before)
                    raise
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror}") from error

    def read(self) -> list[Metrics]:
        """The epochs logged, in order, up to the first line that is not whole."""
        return [metrics for metrics, _ in self._lines()]

    def checksum(self, epoch: int) -> str:
        """Return the SHA-256 checksum of the lines up to this epoch."""
        return hashlib.sha256(b"".join(self._content().splitlines(keepends=True)[:epoch])).hexdigest()

    def cut_after(self, epoch: int, checksum: str | None = None) -> list[Metrics]:
        """Drop what a killed run wrote beyond its checkpoint: whole lines of later epochs and a partial last line.

        checksum: of the lines that are kept; None where the checkpoint does not tell it.

        Raises:
            RunError: lines up to `epoch` are missing, damaged or of another run; the file is left as it is.
        """
        lines = self._lines()[:epoch]
        epochs = [metrics for metrics, _ in lines]
        if len(epochs) < epoch:
            raise RunError(f"{self.path} has {len(epochs)} whole lines, expected one for each of {epoch} epochs")
        if checksum not in (None, self.checksum(epoch)):
            raise RunError(f"{self.path} has other lines than the run had when its checkpoint was saved")
        kept = b"".join(line for _, line in lines)
        if kept != self._content():
            write_atomically(self.path, kept)
        return epochs

    def _lines(self) -> list[tuple[Metrics, bytes]]:
        lines: list[tuple[Metrics, bytes]] = []
        for line in self._content().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                metrics = from_json(line, Metrics)
            except ValueError:
                break
            if metrics.epoch != len(lines) + 1:
                break
            lines.append((metrics, line))
        return lines

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise RunError(f"{self.path} cannot be read: {error.strerror}") from error


def _without_following(path: str, flags: int) -> int:
    """Open a file that may be made, but no link in its place."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _to_json(metrics: Metrics) -> dict[str, Any]:
    values = asdict(metrics)
    observations = {name: _with_null(layers) for name, layers in values.pop("observations").items()}
    return _with_null(values) | ({"observations": observations} if observations else {})


def _with_null(values: Mapping[Any, float]) -> dict[Any, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
