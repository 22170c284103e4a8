from __future__ import annotations

import os
import pickle
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fastalign.errors import RunError
from fastalign.papers.experiments.digits import MLP
from fastalign.papers.runs.checkpoint import SavedRun, load_checkpoint, save_checkpoint
from fastalign.papers.runs.loop import TrainerState
from fastalign.papers.runs.metrics import Metrics, MetricsLog
from fastalign.papers.runs.settings import new_settings

STATE: TrainerState = {
    "model": {"weight": torch.arange(1000.0)},
    "optimizer": {"state": {}, "param_groups": []},
    "epochs_done": 3,
    "epoch_so_far": {},
    "permutation_state": torch.get_rng_state(),
    "random_states": [torch.get_rng_state()],
    "cuda_random_states": [],
}
LATER: TrainerState = {**STATE, "epochs_done": 4}
RUN = SavedRun(new_settings(MLP, "dfa", {"device": "cpu"}, 1), 0, "")


@contextmanager
def disk_full_beyond(size: int) -> Iterator[None]:
    """No file can grow beyond this size: a write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", STATE, RUN)
    state = load_checkpoint(tmp_path / "checkpoint")
    assert torch.equal(state["model"]["weight"], STATE["model"]["weight"])
    assert state["epochs_done"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_full_disk_leaves_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    save_checkpoint(path, STATE, RUN)
    before = path.read_bytes()
    with disk_full_beyond(2000), pytest.raises(RunError, match="checkpoint cannot be written: File too large"):
        save_checkpoint(path, LATER, RUN)
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_failure_before_the_renaming_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint"
    save_checkpoint(path, STATE, RUN)
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        assert path.read_bytes() == before
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match="No space left on device"):
        save_checkpoint(path, LATER, RUN)
    assert path.read_bytes() == before


def test_a_full_disk_takes_a_part_of_a_metrics_line_back(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(Metrics(1, 0.5, 2.5, 3.5, 0.25, 0.1))
    before = log.path.read_bytes()
    with disk_full_beyond(len(before) + 10), pytest.raises(RunError, match=r"metrics\.jsonl cannot be written"):
        log.append(Metrics(2, 0.5, 2.5, 3.5, 0.25, 0.1))
    assert log.path.read_bytes() == before


def test_the_old_file_is_replaced_not_written_over(tmp_path: Path) -> None:
    path, old = tmp_path / "checkpoint", tmp_path / "old"
    save_checkpoint(path, STATE, RUN)
    before = path.read_bytes()
    os.link(path, old)
    save_checkpoint(path, LATER, RUN)
    assert old.read_bytes() == before
    assert load_checkpoint(path)["epochs_done"] == 4


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch came-here",)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps(Malicious(), 2), None])
def test_a_damaged_file_is_named_and_runs_no_code(
    tmp_path: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint"
    save_checkpoint(path, STATE, RUN)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(RunError, match="checkpoint is damaged"):
        load_checkpoint(path)
    assert not Path("came-here").exists()


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_a_flipped_bit_is_refused_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    save_checkpoint(path, STATE, RUN)
    content = path.read_bytes()
    places = random.Random(0)
    first_line_and_checksum = range(8 * 60)
    for bit in [*first_line_and_checksum, *(places.randrange(8 * len(content)) for _ in range(100))]:
        path.write_bytes(flipped(content, bit))
        with pytest.raises(RunError, match="checkpoint is damaged"):
            load_checkpoint(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "checkpoint")
    with pytest.raises(RunError, match="not a checkpoint of format 1"):
        load_checkpoint(tmp_path / "checkpoint")
