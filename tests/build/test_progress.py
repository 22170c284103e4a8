"""`.ci/progress.py`, by which `make` shows what pip installs and compiles."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "progress.py"
INSTALLATION = """\
WARNING: Location 'file:///mirror/torch/' is ignored: it is neither a file nor a directory.
Collecting torch==2.13.0
  Downloading torch-2.13.0.whl (190.1 MB)
Requirement already satisfied: numpy
WARNING: The directory is not writable
  Running command Building editable for fastalign (pyproject.toml)
  running build_ext
  fastalign: no CUDA kernels, as the build found no GPU
  compiling 1/2 csrc/cpu/ops/update.cpp
  compiling 2/2 csrc/python/module.cpp
Installing collected packages: torch, fastalign
Successfully installed torch-2.13.0 fastalign-0.1.0
"""
SHOWN = """\
installing
  Downloading torch-2.13.0.whl (190.1 MB)
  WARNING: The directory is not writable
  fastalign: no CUDA kernels, as the build found no GPU
  compiling 1/2 csrc/cpu/ops/update.cpp
  compiling 2/2 csrc/python/module.cpp
  Installing collected packages: torch, fastalign
"""
COMPILER = """\
  compiling 1/1 csrc/cpu/ops/update.cpp
  FAILED: [code=1] update.cpp.o
  update.cpp:1:9: error: invalid conversion
      1 | int x = "a";
Failed to build fastalign
"""


@pytest.fixture(scope="module")
def progress() -> ModuleType:
    specification = importlib.util.spec_from_file_location("progress", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def saying(text: str, status: int = 0) -> list[str]:
    """Return a command that prints a text and ends."""
    return [sys.executable, "-c", f"print({text!r}, end=''); raise SystemExit({status})"]


def test_what_is_installed_and_compiled_is_shown(progress: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert progress.show("installing", saying(INSTALLATION)) == 0
    assert capfd.readouterr().out == SHOWN


def test_a_compiler_that_fails_is_heard(progress: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert progress.show("installing", saying(INSTALLATION + COMPILER, 3)) == 3
    shown = capfd.readouterr().out
    assert shown.startswith(SHOWN)
    assert [line.strip() for line in shown.removeprefix(SHOWN).splitlines()] == [
        line.strip() for line in COMPILER.splitlines()
    ]


def test_a_failure_without_a_known_message_shows_all_but_empty_registries(
    progress: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    assert progress.show("installing", saying(INSTALLATION, 1)) == 1
    shown = capfd.readouterr().out
    assert "Requirement already satisfied: numpy" in shown
    assert "Location" not in shown


def test_a_silent_command_is_said_to_be_running(progress: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    """The command waits for the line that says so: with hidden lines alone it would never be shown."""
    silent = [sys.executable, "-c", "import sys; print('hidden', flush=True); sys.stdin.read()"]
    command = [sys.executable, "-c", f"import runpy; runpy.run_path({str(SCRIPT)!r})['show']('x', {silent!r}, 0.05)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "x\n"
        assert process.stdout.readline().startswith("  still running after ")
        process.stdin.close()
    assert process.returncode == 0
