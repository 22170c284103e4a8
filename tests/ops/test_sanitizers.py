"""The kernels' host code and the emulator under AddressSanitizer and UndefinedBehaviorSanitizer, in a process apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import emulator
import pytest

FOLDER = Path(__file__).parent
SIZES = "test_size and (bfloat16 or float32) and (7x128 or 65x2 or 3x0)"
FEW = f"test_kernels and emulated and not library and ({SIZES} or misaligned)"


def libasan() -> Path:
    found = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())


MISSING = emulator.missing() or (None if libasan().is_absolute() else "there was no libasan for g++")
pytestmark = [pytest.mark.skipif(MISSING is not None, reason=str(MISSING)), pytest.mark.slow]


def sanitized(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with the sanitizers, from this folder."""
    environment = {
        "FASTALIGN_EMULATOR": "sanitized",
        "LD_PRELOAD": str(libasan()),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "PYTHONPATH": os.pathsep.join((str(FOLDER), str(FOLDER.parent / "support"), str(emulator.ROOT))),
    }
    python = [sys.executable, *command]
    return subprocess.run(
        python, cwd=emulator.ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_operations_are_clean() -> None:
    run = sanitized("-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER), "-k", FEW)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert " passed" in run.stdout


@pytest.mark.parametrize(
    ("probe", "message"), [("write", "heap-buffer-overflow"), ("vector", "store to misaligned address")]
)
def test_sanitizers_report(probe: str, message: str) -> None:
    argument = {"write": 4096, "vector": 1}[probe]
    run = sanitized("-c", f"import test_emulator; test_emulator.probe({probe!r}, {argument})")
    assert run.returncode != 0
    assert message in run.stderr
