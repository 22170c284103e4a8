"""The lock that a benchmark holds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastalign.bench import command, process
from fastalign.bench.quiet import Pause, a_benchmark_measures, benchmark_lock, lock_file
from fastalign.cli import main

HOLD = """
import time
from fastalign.bench.quiet import benchmark_lock
with benchmark_lock(print):
    print("held", flush=True)
    time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def lock_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def other_benchmark() -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock."""
    environment = {**os.environ, "PYTHONPATH": str(process.THIS_BUILD)}
    with subprocess.Popen([sys.executable, "-c", HOLD], env=environment, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other
        other.kill()


def test_it_is_held_for_the_time_of_a_block() -> None:
    assert not a_benchmark_measures()
    with benchmark_lock(print):
        assert a_benchmark_measures()
    assert not a_benchmark_measures()


def test_a_killed_benchmark_leaves_it_free(other_benchmark: subprocess.Popen[str]) -> None:
    assert a_benchmark_measures()
    other_benchmark.send_signal(signal.SIGKILL)
    other_benchmark.wait()
    assert not a_benchmark_measures()


def test_another_benchmark_comes_after(other_benchmark: subprocess.Popen[str]) -> None:
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        threading.Timer(0.2, other_benchmark.kill).start()

    with benchmark_lock(tell):
        assert other_benchmark.wait(60)
    assert told == ["waiting for another benchmark"]


def test_told_so_it_does_not_wait(other_benchmark: subprocess.Popen[str]) -> None:
    with benchmark_lock(pytest.fail, waits=False):
        assert other_benchmark.poll() is None


def test_it_is_one_for_each_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lock_file() == tmp_path / f"fastalign-bench-{os.getuid()}.lock"
    for gone in (str(tmp_path / "none"), ""):
        monkeypatch.setenv("XDG_RUNTIME_DIR", gone)
        assert lock_file().name == f"fastalign-bench-{os.getuid()}.lock"
        assert lock_file().parent.is_dir()


def test_where_it_cannot_be_made_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock_file().symlink_to(tmp_path / "elsewhere")
    assert main(["bench", "memory", "--quick"]) == 2
    assert f"the benchmark's lock {lock_file()} cannot be opened" in capsys.readouterr().err


def test_every_measurement_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    def run(*_: Any) -> dict[str, Any]:
        held.append(a_benchmark_measures())
        raise KeyboardInterrupt

    monkeypatch.setattr(command.process, "run", run)
    monkeypatch.setattr(command.against, "run", run)
    monkeypatch.setattr(command, "wait_until_quiet", lambda tell: None)
    assert main(["bench", "--quick"]) == main(["bench", "--against", "wheel"]) == 130
    assert held == [True, True]


def test_a_pause_is_told_once_of_each_benchmark() -> None:
    told: list[str] = []
    pause = Pause(lambda: told.append("waits"))
    assert not pause.is_due()
    for times in (1, 2):
        with benchmark_lock(print):
            assert pause.is_due()
            assert pause.is_due()
        assert not pause.is_due()
        assert len(told) == times
