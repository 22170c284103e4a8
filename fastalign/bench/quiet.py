"""Quiet for a benchmark: a lock that it holds and that long training runs wait for, and whether the machine is busy."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastalign.errors import RunError

PATIENCE = 120.0
"""Seconds in which the machine's load, a mean of a minute, must have fallen."""


def lock_file() -> Path:
    """The file that a benchmark locks: one for each user and machine."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = runtime if os.path.isdir(runtime) else tempfile.gettempdir()
    return Path(folder, f"fastalign-bench-{os.getuid()}.lock")


@contextmanager
def benchmark_lock(tell: Callable[[str], None], *, waits: bool = True) -> Iterator[None]:
    """Hold the lock for the time of the block. A benchmark that is killed leaves it free.

    waits: whether the block begins only after any other benchmark; else it begins without the lock.

    Raises:
        RunError: the file cannot be opened.
    """
    path = lock_file()
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise RunError(f"the benchmark's lock {path} cannot be opened: {error.strerror}") from error
    try:
        if not _is_locked_soon(descriptor) and waits:
            tell("waiting for another benchmark")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Pause:
    """Looks for benchmarks on behalf of runs that wait for them, and tells once of each."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._told = False

    def is_due(self) -> bool:
        """Whether a benchmark measures now."""
        due = a_benchmark_measures()
        if due and not self._told:
            self._tell()
        self._told = due
        return due


def a_benchmark_measures() -> bool:
    """Whether somebody holds the lock."""
    try:
        descriptor = os.open(lock_file(), os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _is_locked_now(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _is_locked_soon(descriptor: int) -> bool:
    """Take the lock unless a benchmark holds it: a run that only looks has it for a moment."""
    for _ in range(20):
        if _is_locked_now(descriptor, fcntl.LOCK_EX):
            return True
        time.sleep(0.02)
    return False


def _is_locked_now(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_until_quiet(tell: Callable[[str], None]) -> None:
    """Give the machine's load time to fall to half its cores: that of what has just ended, or waits for the lock.

    Raises:
        RunError: it did not.
    """
    most = (os.cpu_count() or 1) / 2
    deadline = time.monotonic() + PATIENCE
    told = False
    while (load := os.getloadavg()[0]) > most:
        if time.monotonic() > deadline:
            raise RunError(
                f"the machine is busy: its load is {load:.1f}, expected at most {most:g}, half its cores. Stop what "
                "runs beside (training runs wait only when their epoch ends), or measure with --even-if-busy"
            )
        if not told:
            tell(f"waiting for the machine's load, {load:.1f}, to fall to {most:g}")
            told = True
        time.sleep(1)
