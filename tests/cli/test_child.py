"""Interpreters that the package starts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from commands import ROOT

from fastalign.bench.interpreter import python_command


def test_files_of_the_current_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fastalign").mkdir()
    for name in ("random.py", "runpy.py", "fastalign/__init__.py", "fastalign/__main__.py"):
        (tmp_path / name).write_text("raise SystemExit('a file of the current folder')")
    monkeypatch.syspath_prepend(ROOT)
    done = subprocess.run(
        python_command("fastalign", "experiments"), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "digits/mlp" in done.stdout


def test_none_is_started_by_the_option_that_looks_there() -> None:
    started = re.compile(r'executable,\s*"-m"')
    assert not [file for file in (ROOT / "fastalign").rglob("*.py") if started.search(file.read_text())]
