from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import Fastalign, Result

from fastalign import cli


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Small networks on a machine that the tests share with the processes they start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def fastalign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fastalign:
    """Runs the command in this process and in an empty folder, without a data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTALIGN_DATA", raising=False)

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return run
