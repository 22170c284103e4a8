"""The command's first second, in which Python imports the package, and the environment variables that it reads then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Fastalign, command, environment

from fastalign.ops import native


def interrupted_while_torch_is_imported(folder: Path, arguments: list[str]) -> tuple[int, str]:
    """The exit code and the errors of a process to which Ctrl-C comes before its torch is there."""
    (folder / "torch.py").write_text("import time; print('importing', flush=True); time.sleep(60)")
    variables = environment()
    variables["PYTHONPATH"] = os.pathsep.join([str(folder), variables["PYTHONPATH"]])
    process = subprocess.Popen(
        arguments, env=variables, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    return process.returncode, error


def test_ctrl_c_ends_the_command_in_one_line(tmp_path: Path) -> None:
    result = interrupted_while_torch_is_imported(tmp_path, command("experiments"))
    assert result == (130, "fastalign: interrupted\n")


def test_ctrl_c_at_the_import_by_another_program_is_that_programs(tmp_path: Path) -> None:
    program = "try: import fastalign\nexcept KeyboardInterrupt: raise SystemExit(7)"
    assert interrupted_while_torch_is_imported(tmp_path, [sys.executable, "-c", program]) == (7, "")


@pytest.mark.skipif(native.module is None, reason="the extension reads it, which is not there")
def test_an_unknown_instruction_set_is_one_line() -> None:
    variables = environment() | {"FASTALIGN_CPU_CAPABILITY": "what"}
    result = subprocess.run(command("experiments"), env=variables, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert result.stderr.startswith("fastalign: FASTALIGN_CPU_CAPABILITY: expected one of baseline, ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"RANK": "x"}, "RANK is 'x', expected a whole number from 0 to 0"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1', expected a whole number from 1"),
        ({"WORLD_SIZE": "2"}, "RANK is not set beside WORLD_SIZE=2"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set beside WORLD_SIZE=2"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "RANK is '2', expected a whole number from 0 to 1",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"},
            "the processes that torchrun started do not find each other: ",
        ),
    ],
)
def test_variables_of_torchrun_that_cannot_be_are_one_line(
    variables: dict[str, str], says: str, fastalign: Fastalign, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = fastalign("train", "digits/mlp", "--rule", "dfa", "--epochs", "1", "--device", "cpu")
    assert result.code == 2
    assert result.error.startswith(f"fastalign: {says}")
    assert result.error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
