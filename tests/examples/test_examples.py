"""The examples run as they stand, and what they train has learnt."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# By the script: the test error in percent that each of its lines may show; chance is 90.
MOST = {
    "own_data": [8],
    "convert_network": [8],
    "new_rule": [10],
    "own_experiment": [8],
    "alignment_plot": [8, 10],
    "residual_network": [8],
    "transformer": [8],
    "two_processes": [10],
}


def test_there_is_a_test_for_each() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(MOST)


@pytest.mark.parametrize("name", MOST)
def test_an_example_learns(name: str, tmp_path: Path) -> None:
    start = TORCHRUN if name == "two_processes" else ()
    result = subprocess.run(
        [sys.executable, *start, str(ROOT / "examples" / f"{name}.py")],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    errors = [float(error) for error in re.findall(r"test error ([\d.]+) %", result.stdout)]
    assert len(errors) == len(MOST[name])
    assert all(error < most for error, most in zip(errors, MOST[name], strict=True)), result.stdout
    if name == "alignment_plot":
        assert (tmp_path / "gradient_angle.png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in (tmp_path / "alignment_angle.svg").read_text(encoding="utf-8")
    elif name == "own_experiment":
        assert (tmp_path / "runs/own/saturated.png").read_bytes().startswith(b"\x89PNG")
    else:
        assert list(tmp_path.iterdir()) == []
