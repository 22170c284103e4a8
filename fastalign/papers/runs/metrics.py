"""The metrics log: one JSON object a line, one line an epoch."""

from __future__ import annotations

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
            with self.path.open("ab", buffering=0) as file:
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

    def cut_after(self, epoch: int) -> list[Metrics]:
        """Drop what a killed run wrote beyond its checkpoint: whole lines of later epochs and a partial last line.

        Raises:
            RunError: lines up to `epoch` are missing or damaged; the file is left as it is.
        """
        lines = self._lines()[:epoch]
        epochs = [metrics for metrics, _ in lines]
        if [metrics.epoch for metrics in epochs] != list(range(1, epoch + 1)):
            raise RunError(f"{self.path} has {len(epochs)} whole lines, expected one for each of {epoch} epochs")
        kept = b"".join(line for _, line in lines)
        if kept != self._content():
            write_atomically(self.path, kept)
        return epochs

    def _lines(self) -> list[tuple[Metrics, bytes]]:
        lines = []
        for line in self._content().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                lines.append((_from_json(json.loads(line)), line))
            except (ValueError, TypeError, AttributeError):
                break
        return lines

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise RunError(f"{self.path} cannot be read: {error.strerror}") from error


def _to_json(metrics: Metrics) -> dict[str, Any]:
    values = asdict(metrics)
    observations = {name: _with_null(layers) for name, layers in values.pop("observations").items()}
    return _with_null(values) | ({"observations": observations} if observations else {})


def _from_json(values: dict[str, Any]) -> Metrics:
    observations = {
        name: {int(layer): value for layer, value in _without_null(layers).items()}
        for name, layers in values.pop("observations", {}).items()
    }
    return Metrics(**_without_null(values), observations=observations)


def _with_null(values: Mapping[Any, float]) -> dict[Any, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _without_null(values: Mapping[str, float | None]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in values.items()}
