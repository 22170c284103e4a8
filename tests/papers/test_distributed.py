from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import train_in_parts

import fastalign
from fastalign import cli
from fastalign.papers.runs.distributed import Processes
from fastalign.papers.runs.metrics import Metrics, MetricsLog


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start two processes of a Python program, and wait for them."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(fastalign.__path__[0]).parent)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], Any]]:
    """What every case gave in each of two processes."""
    folder = tmp_path_factory.mktemp("in_parts")
    result = torchrun(folder, train_in_parts.__file__, str(folder))
    assert result.returncode == 0, result.stderr
    return [torch.load(folder / f"rank{rank}", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize(("rule", "reduction"), train_in_parts.CASES)
def test_two_processes_train_as_one(in_parts: list[dict[tuple[str, str], Any]], rule: str, reduction: str) -> None:
    alone = train_in_parts.train(rule, reduction, Processes.alone())
    for results in in_parts:
        torch.testing.assert_close(results[rule, reduction], alone, rtol=1e-9, atol=1e-11)


def test_a_stop_that_one_process_asks_for_leaves_the_bits_as_they_are(
    in_parts: list[dict[Any, Any]], same_bits: Callable[[object, object], bool]
) -> None:
    for results in in_parts:
        assert same_bits(results["stopped"], results["unbroken"])
    first, second = in_parts[0]["unbroken"]["random_states"]
    assert not torch.equal(first, second)


def test_torchrun_trains_from_the_command_line(tmp_path: Path) -> None:
    arguments = ["train", "digits/mlp", "--rule", "pepita", "--epochs", "2", "--device", "cpu", "--dtype", "float64"]
    result = torchrun(tmp_path, "-m", "fastalign", *arguments)
    assert result.returncode == 0, result.stderr
    out = tmp_path / "runs/digits/mlp/pepita"
    assert {path.name for path in out.iterdir()} == {"config.json", "metrics.jsonl", "checkpoint", "curves.png"}
    assert result.stdout.count("epoch ") == 2
    assert cli.main([*arguments, "--out", str(tmp_path / "alone")]) == 0
    in_parts, whole = (MetricsLog(folder / "metrics.jsonl").read() for folder in (out, tmp_path / "alone"))
    for ours, theirs in zip(in_parts, whole, strict=True):
        assert _numbers(ours) == pytest.approx(_numbers(theirs), rel=1e-9)
        assert ours.observations == theirs.observations


def _numbers(metrics: Metrics) -> dict[str, float]:
    return {name: value for name, value in asdict(metrics).items() if name not in ("seconds", "observations")}
