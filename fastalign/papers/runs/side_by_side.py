"""Runs side by side, each `fastalign train` in a process of its own, none of which outlives this one.

Threads of one process were measured slower: the short calls of small networks wait for Python's lock, and the products
of large ones gain nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any, Generic, Protocol, TypeVar

import torch

from fastalign.bench.interpreter import python_command
from fastalign.papers.runs.metrics import Metrics

BYTES_PER_RUN = 3 << 30
SECONDS_BETWEEN_LOOKS = 0.3


class Job(Protocol):
    """A run that is wanted."""

    def arguments(self) -> Sequence[str]:
        """Those of `fastalign train`."""

    def history(self) -> list[Metrics]:
        """The wanted epochs that are done."""

    def is_done(self, history: Sequence[Metrics]) -> bool:
        """Whether these are all of them, so that no process is needed."""


AnyJob = TypeVar("AnyJob", bound=Job)


def train_arguments(
    experiment: str, rule: str, given: Mapping[str, Any], *, out: Path, data_directory: Any, resume: bool
) -> list[str]:
    """The arguments of `fastalign train` for settings by name, as `fastalign.papers.runs.run.train` takes them."""
    arguments = [experiment, f"--rule={rule}", f"--out={out}"]
    if data_directory is not None:
        arguments.append(f"--data={data_directory}")
    if resume:
        arguments.append("--resume")
    for name, value in given.items():
        option = name.replace("_", "-")
        if value is True:
            arguments.append(f"--{option}")
        elif value is False:
            arguments += ["--no-fused-step"] if name == "fused_step" else []
        elif value is not None:
            arguments.append(f"--{option}={value}")
    return arguments


def most_side_by_side(device: str) -> int:
    """One run for each of torch's threads, as far as memory goes; on a GPU, one at a time."""
    if device != "cpu":
        return 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(torch.get_num_threads(), memory // BYTES_PER_RUN))


class Queue(Generic[AnyJob]):
    """Jobs that wait, run, and are done or have failed; those that run share torch's threads."""

    def __init__(self, jobs: Sequence[AnyJob], side_by_side: int) -> None:
        self.histories = {job: job.history() for job in jobs}
        """The epochs that each job has done."""
        self.failures: dict[AnyJob, str] = {}
        """What the process of a failed job said last."""
        self._waiting = deque(job for job, history in self.histories.items() if not job.is_done(history))
        self._running: dict[AnyJob, _Process] = {}
        self._side_by_side = max(1, min(side_by_side, len(self._waiting)))

    @property
    def running(self) -> Mapping[AnyJob, object]:
        """The jobs at work."""
        return self._running

    def run(self, show: Callable[[], None]) -> None:
        """Run all that is missing, calling `show` a few times a second; what it raises ends the others.

        Raises:
            KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP came; every run saved what was done.
        """
        threads = max(1, torch.get_num_threads() // self._side_by_side)
        with _signals_interrupt():
            try:
                while self._waiting or self._running:
                    while self._waiting and len(self._running) < self._side_by_side:
                        job = self._waiting.popleft()
                        self._running[job] = _Process(job.arguments(), threads)
                    show()
                    time.sleep(SECONDS_BETWEEN_LOOKS)
                    for job, process in list(self._running.items()):
                        ended = process.has_ended()
                        self.histories[job] = job.history()
                        if ended:
                            del self._running[job]
                            if process.failure is not None:
                                self.failures[job] = process.failure
                show()
            finally:
                for process in self._running.values():
                    process.interrupt()
                for process in self._running.values():
                    process.wait()


class _Process:
    """A run at work."""

    def __init__(self, arguments: Sequence[str], threads: int) -> None:
        self.failure: str | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the process has ended)
        self._process = subprocess.Popen(
            python_command("fastalign", "train", *arguments, "--stop-at-end-of-input"),
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,  # Nothing is written to it. However this process ends, it is closed then.
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,  # The terminal's Ctrl-C comes to this process alone, which passes it on once.
        )
        assert self._process.stdin is not None
        self._input = self._process.stdin

    def has_ended(self) -> bool:
        """Whether the run came to its end or failed."""
        if self._process.poll() is None:
            return False
        if self._process.returncode != 0:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            said = lines[-1].removeprefix("fastalign: ") if lines else ""
            self.failure = said or f"ended with code {self._process.returncode}"
        self._close()
        return True

    def interrupt(self) -> None:
        """Let the run save what is done and end."""
        self._input.close()

    def wait(self) -> None:
        """Until the run has ended."""
        self._process.wait()
        self._close()

    def _close(self) -> None:
        self._input.close()
        self._errors.close()


def stop_at_end_of_input() -> None:
    """Let the end of standard input be what Ctrl-C is: whoever held its other end is gone."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # What a shell starts in the background ignores it.
    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP are what Ctrl-C is, in the background too: every run saves what is done."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
