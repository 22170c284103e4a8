"""Interpreters that the package starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from commands import ROOT

from fastalign.child import python_command


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


def test_there_is_one_way_to_start_them() -> None:
    starting = [file for file in (ROOT / "fastalign").rglob("*.py") if "sys.executable" in file.read_text()]
    assert [file.name for file in starting] == ["child.py"]
