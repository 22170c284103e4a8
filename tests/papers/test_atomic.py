from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from fastalign.bench.atomic import PREFIX, remove_temporary_files, write_atomically
from fastalign.errors import RunError


def test_a_link_in_the_place_of_the_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "page").symlink_to(tmp_path / "mine")
    write_atomically(tmp_path / "page", b"new")
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "page").is_symlink()
    assert (tmp_path / "page").read_bytes() == b"new"


def test_a_link_that_guesses_the_temporary_name_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda size: "guessed")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f"{PREFIX}guessed").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="page cannot be written: File exists"):
        write_atomically(tmp_path / "page", b"new")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / f"{PREFIX}guessed").is_symlink()


def test_files_of_the_user_beside_it_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "page.tmp").write_text("mine")
    write_atomically(tmp_path / "page", b"new")
    remove_temporary_files(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"page.tmp": b"mine", "page": b"new"}


def test_the_file_may_be_read_by_whom_the_user_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "page", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "page").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("place", ["file/page", "nowhere/page", "folder", ".", "/proc/page", "a" * 300])
def test_what_cannot_be_written_is_one_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="cannot be written: "):
        write_atomically(Path(place), b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_cleanup_that_fails_does_not_hide_why_the_write_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    def fail_too(*arguments: object, **named: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(Path, "unlink", fail_too)
    with pytest.raises(RunError, match="page cannot be written: No space left on device"):
        write_atomically(tmp_path / "page", b"new")


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "page", b"new")
    assert list(tmp_path.iterdir()) == []
