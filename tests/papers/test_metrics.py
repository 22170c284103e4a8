from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fastalign.errors import RunError
from fastalign.papers.runs.metrics import Metrics, MetricsLog


def epoch(number: int, loss: float = 0.5) -> Metrics:
    return Metrics(number, loss, 2.5, 3.5, 0.25, 0.1)


@pytest.fixture
def log(tmp_path: Path) -> MetricsLog:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for number in (1, 2, 3):
        log.append(epoch(number))
    return log


def test_one_json_object_a_line(log: MetricsLog) -> None:
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert list(lines[0]) == ["epoch", "train_loss", "train_error", "test_error", "seconds", "lr"]
    assert log.read() == [epoch(1), epoch(2), epoch(3)]


def test_a_loss_that_is_not_finite_is_null(log: MetricsLog) -> None:
    log.append(epoch(4, loss=math.inf))
    assert '"train_loss": null' in log.path.read_text().splitlines()[3]
    assert math.isnan(log.read()[3].train_loss)


@pytest.mark.parametrize("partial", [b"", b'{"epoch": 4, "trai', b'{"epoch": 4}', b"\xff\xfe\n", b'"epoch"\n', b"4\n"])
@pytest.mark.parametrize("kept", [0, 1, 3])
def test_what_goes_beyond_the_checkpoint_is_cut(log: MetricsLog, partial: bytes, kept: int) -> None:
    whole = log.path.read_bytes().splitlines(keepends=True)
    with log.path.open("ab") as file:
        file.write(partial)
    assert log.cut_after(kept) == [epoch(1), epoch(2), epoch(3)][:kept]
    assert log.path.read_bytes() == b"".join(whole[:kept])


def test_lines_with_another_checksum_are_an_error_and_the_file_is_left_alone(log: MetricsLog) -> None:
    before, checksum = log.path.read_bytes(), log.checksum(2)
    assert log.cut_after(3, log.checksum(3)) == [epoch(1), epoch(2), epoch(3)]
    log.path.write_bytes(before.replace(b"0.25", b"0.75", 1))
    with pytest.raises(RunError, match=r"metrics\.jsonl has other lines"):
        log.cut_after(2, checksum)
    assert log.path.read_bytes() == before.replace(b"0.25", b"0.75", 1)
    log.path.write_bytes(before)
    assert log.cut_after(2, checksum) == [epoch(1), epoch(2)]


def test_missing_epochs_are_an_error_and_the_file_is_left_alone(log: MetricsLog) -> None:
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(lines[0] + lines[2])
    with pytest.raises(RunError, match=r"metrics\.jsonl"):
        log.cut_after(3)
    assert log.path.read_bytes() == lines[0] + lines[2]


def test_a_link_to_a_file_of_somebody_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for to in ("mine", "nothing"):
        log = MetricsLog(tmp_path / f"to-{to}")
        log.path.symlink_to(tmp_path / to)
        with pytest.raises(RunError, match="cannot be written"):
            log.append(epoch(1))
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "nothing").exists()


def test_nothing_logged_yet(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.read() == []
    assert log.cut_after(0) == []
    with pytest.raises(RunError, match="expected one for each of 1 epochs"):
        log.cut_after(1)
