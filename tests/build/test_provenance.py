"""What results are said to be made of."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fastalign.bench import provenance

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that holds the module, and whose configuration and hooks make a file when git starts them."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "provenance.py").write_text("")
    (folder / "other.py").write_text("")
    identity = ("-c", "user.name=n", "-c", "user.email=e")
    for arguments in (("init",), ("add", "provenance.py", "other.py"), (*identity, "commit", "-m", "m")):
        subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    subprocess.run(["git", "config", "core.fsmonitor", str(program)], cwd=folder, check=True)
    shutil.copy(program, folder / ".git/hooks/post-index-change")
    monkeypatch.setattr(provenance, "__file__", str(folder / "provenance.py"))
    return folder


def test_the_commit_and_its_changes_are_told_and_nothing_of_the_repository_is_started(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    for changed in (False, True):
        told = provenance.describe()
        assert told["commit"] == (repository / ".git/refs/heads").joinpath(branch(repository)).read_text().strip()
        assert told["uncommitted_changes"] is changed
        assert not (tmp_path / "started").exists()
        (repository / "other.py").write_text("changed")


def branch(repository: Path) -> str:
    return (repository / ".git/HEAD").read_text().strip().removeprefix("ref: refs/heads/")


def test_a_repository_that_does_not_hold_the_file_tells_nothing(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "__file__", str(repository / "not_added.py"))
    (repository / "not_added.py").write_text("")
    told = provenance.describe()
    assert (told["commit"], told["uncommitted_changes"]) == (None, None)
