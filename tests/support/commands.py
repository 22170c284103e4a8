"""Commands, as the tests start them, and what runs leave behind."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

import fastalign as package
from fastalign.papers.runs.checkpoint import load_checkpoint

ROOT = Path(package.__path__[0]).parent
Fastalign = Callable[..., "Result"]


class Result(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    error: str


def command(*arguments: object) -> list[str]:
    """The command line of a process of its own."""
    return [sys.executable, "-m", "fastalign", *map(str, arguments)]


def environment() -> dict[str, str]:
    """This package, and one thread: the processes of the tests share the machine."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def metrics_of(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without the seconds."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_saved_and_left(run: Path) -> None:
    """Whoever trained in the folder has ended in order: the checkpoint is of all its epochs, the curves are drawn."""
    descriptor = os.open(run, os.O_RDONLY)
    try:
        deadline = time.monotonic() + 60  # of a run that would go on for longer
        while not _is_free(descriptor):
            assert time.monotonic() < deadline, f"somebody goes on training in {run}"
            time.sleep(0.05)
    finally:
        os.close(descriptor)
    assert load_checkpoint(run / "checkpoint")["epochs_done"] == len(metrics_of(run))
    assert (run / "curves.png").exists()


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def assert_same_bits(a: Path, b: Path) -> None:
    """The checkpoints of two runs are equal in every bit, their metrics in every digit, but for the seconds."""
    assert metrics_of(a) == metrics_of(b)
    states = [load_checkpoint(run / "checkpoint") for run in (a, b)]
    runs = [replace(state.pop("run"), metrics_checksum="") for state in states]  # which is of lines with the seconds
    assert runs[0] == runs[1]
    assert _bits(states[0]) == _bits(states[1])


def _bits(state: Any) -> Any:
    """The state with each tensor's type, shape and bytes in its place."""
    if isinstance(state, torch.Tensor):
        return state.dtype, state.shape, state.numpy().tobytes()
    if isinstance(state, dict):
        return {name: _bits(value) for name, value in state.items()}
    return [_bits(value) for value in state] if isinstance(state, list) else state
