"""The folder of a run: who may use it, and the files in it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastalign.bench.atomic import remove_temporary_files, write_atomically
from fastalign.bench.provenance import Provenance
from fastalign.errors import RunError, UserError
from fastalign.papers.runs.metrics import MetricsLog
from fastalign.papers.runs.settings import Settings
from fastalign.papers.runs.typed import from_json


@dataclass(frozen=True)
class Config:
    """What `config.json` says of a run. recipe: as `Recipe.as_json` has it, maybe that of another version."""

    settings: Settings
    recipe: Mapping[str, Any]
    data_checksum: int
    made_by: Provenance | None = None


class RunFolder:
    """OUT, with `config.json` (written first), `metrics.jsonl`, `checkpoint` and `curves.png`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.checkpoint = path / "checkpoint"
        self.curves = path / "curves.png"
        self.metrics = MetricsLog(path / "metrics.jsonl")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other runs out of it for the time of the block; a killed run keeps nobody out.

        Raises:
            RunError: the folder cannot be made or written to, or another run is using it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise RunError(f"the folder {self.path} cannot be made: {error.strerror}") from error
        try:
            if not os.access(self.path, os.W_OK):
                raise RunError(f"the folder {self.path} cannot be written to")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(f"another run is using the folder {self.path}") from error
            remove_temporary_files(self.path)
            yield
        finally:
            os.close(descriptor)

    def saved_config(self, resume: bool) -> Config | None:
        """The configuration of the run to resume; None where there is no run yet.

        Raises:
            RunError: the folder holds a run and `resume` is False, or what it holds is not a whole run.
        """
        files = (self.config, self.metrics.path, self.checkpoint, self.curves)
        held = [path.name for path in files if os.path.lexists(path)]
        if not held:
            return None
        if not resume:
            raise RunError(
                f"the folder {self.path} already holds a run ({', '.join(held)}): continue it with --resume or give "
                f"another --out"
            )
        try:
            return from_json(self.config.read_bytes(), Config)
        except OSError as error:
            raise RunError(f"{self.config} cannot be read: {error.strerror}") from error
        except (ValueError, UserError) as error:
            raise RunError(f"{self.config} is damaged, expected the configuration of a run: {error}") from error

    def save_config(self, config: Config) -> None:
        """Write the configuration. Raises RunError if it cannot be written."""
        write_atomically(self.config, (json.dumps(asdict(config), indent=2) + "\n").encode())
