"""Training runs wait between two epochs while a benchmark measures."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from commands import Fastalign, command, environment, metrics_of

from fastalign.bench.quiet import benchmark_lock
from fastalign.papers.runs.checkpoint import load_checkpoint

TRAIN = ("train", "digits/mlp", "--rule", "dfa", "--epochs", "3", "--device", "cpu")


@pytest.fixture
def lock_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def runs(lock_of_the_test: None) -> Iterator[list[subprocess.Popen[str]]]:
    """The runs that a test starts, none of which outlives it."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        output_of(process).close()


def start_and_see_it_wait(out: Path, *more: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    arguments = command(*TRAIN, "--out", out, *more)
    process = subprocess.Popen(arguments, env=environment(), stdin=pipe, stdout=pipe, text=True)
    patience = threading.Timer(60, process.kill)
    patience.start()
    assert output_of(process).readline() == "waiting for a benchmark\n"
    patience.cancel()
    return process


def output_of(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


@pytest.mark.parametrize("more", [(), ("--seeds", "0-1")])
def test_a_run_goes_on_after_the_benchmark(
    tmp_path: Path, runs: list[subprocess.Popen[str]], more: tuple[str, ...]
) -> None:
    with benchmark_lock(print):
        runs.append(start_and_see_it_wait(tmp_path / "run", *more))
        assert not list((tmp_path / "run").rglob("metrics.jsonl"))
    rest = output_of(runs[0]).read()
    assert runs[0].wait(120) == 0
    assert "waiting" not in rest
    for folder in [path.parent for path in (tmp_path / "run").rglob("metrics.jsonl")]:
        assert len(metrics_of(folder)) == 3


@pytest.mark.parametrize("stop", ["Ctrl-C", "end of input"])
def test_a_run_that_waits_is_stopped_as_ever(
    tmp_path: Path, runs: list[subprocess.Popen[str]], fastalign: Fastalign, stop: str
) -> None:
    out = tmp_path / "run"
    with benchmark_lock(print):
        if stop == "Ctrl-C":
            runs.append(start_and_see_it_wait(out))
            runs[0].send_signal(signal.SIGINT)
        else:
            runs.append(start_and_see_it_wait(out, "--stop-at-end-of-input"))
            assert runs[0].stdin is not None
            runs[0].stdin.close()
        assert runs[0].wait(120) == 130
        assert load_checkpoint(out / "checkpoint")["epochs_done"] == 0
    assert fastalign(*TRAIN, "--out", out, "--resume").code == 0
    assert len(metrics_of(out)) == 3
