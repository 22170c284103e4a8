"""Runs that are killed, interrupted, or hindered."""

from __future__ import annotations

import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from commands import Fastalign, assert_same_bits, command, environment, metrics_of

from fastalign.bench.atomic import PREFIX
from fastalign.papers.experiments import experiment
from fastalign.papers.runs.checkpoint import load_checkpoint, save_checkpoint
from fastalign.papers.runs.progress import Progress
from fastalign.papers.runs.run import Interrupted, train

SETTINGS = ("train", "digits/mlp", "--rule", "dfa", "--epochs", "12", "--device", "cpu")
FILES = {"config.json", "metrics.jsonl", "checkpoint", "curves.png"}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    subprocess.run(command(*SETTINGS, "--out", out), env=environment(), check=True, timeout=120, capture_output=True)
    return out


def start_and_stop(out: Path, stop: signal.Signals, wait: float, lines: int) -> int:
    """Start or resume the run, stop it so many seconds after so many lines of metrics; its exit code."""
    process = subprocess.Popen(
        command(*SETTINGS, "--out", out, "--resume"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and lines_of_metrics(out) < lines:
        time.sleep(0.002)
    time.sleep(wait)
    process.send_signal(stop)
    return process.wait(timeout=60)


def lines_of_metrics(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("after", [(1, 4, 8), pytest.param((0, 0, *range(11)), marks=pytest.mark.slow)], ids=len)
def test_killed_at_any_moment_and_resumed_gives_the_same_bits(
    tmp_path: Path, unbroken: Path, fastalign: Fastalign, after: tuple[int, ...]
) -> None:
    """after: so many lines of metrics and a while the run is killed, each time."""
    out = tmp_path / "run"
    moments = random.Random()
    kills = 0
    for lines in after:
        wait = moments.uniform(0, 0.05)
        kills += start_and_stop(out, signal.SIGKILL, wait, lines) == -signal.SIGKILL
    done = fastalign(*SETTINGS, "--out", out, "--resume")
    assert done.code == 0, done.error
    assert kills > 0
    assert_same_bits(out, unbroken)
    assert {path.name for path in out.iterdir()} == FILES


def test_ctrl_c_saves_what_is_done_and_resumes_with_the_same_bits(
    tmp_path: Path, unbroken: Path, fastalign: Fastalign
) -> None:
    out = tmp_path / "run"
    assert start_and_stop(out, signal.SIGINT, 0.01, lines=2) == 130
    assert {path.name for path in out.iterdir()} == FILES
    assert 2 <= len(metrics_of(out)) < 12
    done = fastalign(*SETTINGS, "--out", out, "--resume")
    assert done.code == 0, done.error
    assert_same_bits(out, unbroken)


class CtrlC(Progress):
    """Sends the signal when so many samples are trained on."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def advance(self, samples: int) -> None:
        self.samples -= samples
        if self.samples == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_the_batches_of_the_unfinished_epoch(tmp_path: Path, unbroken: Path, fastalign: Fastalign) -> None:
    out = tmp_path / "run"
    given = {"epochs": 12, "device": "cpu"}
    with pytest.raises(Interrupted):
        train(experiment("digits/mlp"), "dfa", given, out=out, progress=CtrlC(samples=1438 + 7 * 32))
    state = load_checkpoint(out / "checkpoint")
    assert state["epochs_done"] == 1
    assert state["epoch_so_far"]["batches"] == 7
    assert fastalign(*SETTINGS, "--out", out, "--resume").code == 0
    assert_same_bits(out, unbroken)


def test_killed_between_the_metrics_and_the_checkpoint(tmp_path: Path, unbroken: Path, fastalign: Fastalign) -> None:
    out = tmp_path / "run"
    assert start_and_stop(out, signal.SIGINT, 0, lines=3) == 130
    with (out / "metrics.jsonl").open("ab") as log:
        log.write((unbroken / "metrics.jsonl").read_bytes().splitlines(keepends=True)[len(metrics_of(out))])
        log.write(b'{"epoch": 99, "train_lo')
    (out / f"{PREFIX}0123456789abcdef").write_bytes(b"half a checkp")
    done = fastalign(*SETTINGS, "--out", out, "--resume")
    assert done.code == 0, done.error
    assert_same_bits(out, unbroken)
    assert {path.name for path in out.iterdir()} == FILES


def test_more_epochs_continue_a_run_to_the_bits_of_a_longer_one(
    tmp_path: Path, unbroken: Path, fastalign: Fastalign
) -> None:
    short = (*SETTINGS[:4], "--epochs", "5", "--device", "cpu", "--out", "run")
    assert fastalign(*short).code == 0
    done = fastalign("train", "digits/mlp", "--rule", "dfa", "--epochs", "12", "--out", "run", "--resume")
    assert done.code == 0, done.error
    assert_same_bits(tmp_path / "run", unbroken)
    assert json.loads((tmp_path / "run/config.json").read_text())["settings"]["epochs"] == 12


@pytest.fixture
def run(tmp_path: Path, unbroken: Path) -> Path:
    """A copy of a finished run."""
    out = tmp_path / "run"
    out.mkdir()
    for path in unbroken.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (("--lr", "0.5"), "lr is 0.5, but that of the run to resume is 0.05"),
        (("--seed", "1"), "seed is 1, but that of the run to resume is 0"),
        (("--batch-size", "64"), "batch_size is 64, but that of the run to resume is 32"),
        (("--dtype", "float64"), "dtype is float64, but that of the run to resume is float32"),
        (("--epochs", "3"), "epochs is 3, but that of the run to resume is 12"),
        (("--rule", "bp"), "rule is bp, but that of the run to resume is dfa"),
    ],
)
def test_changed_settings_are_refused_and_nothing_is_overwritten(
    run: Path, fastalign: Fastalign, changed: tuple[str, ...], says: str
) -> None:
    before = contents(run)
    result = fastalign(*SETTINGS[:4], *changed, "--out", run, "--resume")
    assert result.code == 2
    assert says in result.error
    assert result.error.count("\n") == 1
    assert contents(run) == before


def damage_checkpoint(run: Path) -> str:
    (run / "checkpoint").write_bytes((run / "checkpoint").read_bytes()[:-50])
    return "checkpoint is damaged"


def lose_metrics(run: Path) -> str:
    (run / "metrics.jsonl").unlink()
    return "metrics.jsonl has 0 whole lines, expected one for each of 12 epochs"


def lose_config(run: Path) -> str:
    (run / "config.json").unlink()
    return "config.json cannot be read"


def lose_checkpoint(run: Path) -> str:
    (run / "checkpoint").unlink()
    return "checkpoint is missing, though"


def take_the_checkpoint_of_another_run(run: Path) -> str:
    state = load_checkpoint(run / "checkpoint")
    saved = state["run"]
    save_checkpoint(run / "checkpoint", state, replace(saved, settings=replace(saved.settings, seed=1)))
    return "was saved with seed 1, but"


def take_the_checkpoint_of_other_data(run: Path) -> str:
    state = load_checkpoint(run / "checkpoint")
    saved = state["run"]
    save_checkpoint(run / "checkpoint", state, replace(saved, data_checksum=saved.data_checksum + 1))
    return "was saved with data_checksum"


def change_config(run: Path) -> str:
    config = json.loads((run / "config.json").read_text())
    config["settings"]["lr"] = 0.5
    (run / "config.json").write_text(json.dumps(config))
    return "was saved with lr 0.05, but"


def change_metrics(run: Path) -> str:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    lines[3] = json.dumps(json.loads(lines[3]) | {"seconds": 1.5}) + "\n"
    (run / "metrics.jsonl").write_text("".join(lines))
    return "metrics.jsonl has other lines than"


def damage_config(run: Path) -> str:
    (run / "config.json").write_text("{")
    return "config.json is damaged"


def change_recipe(run: Path) -> str:
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["decay"] = 0.5
    (run / "config.json").write_text(json.dumps(config))
    return "the recipe of digits/mlp has changed"


def change_data(run: Path) -> str:
    config = json.loads((run / "config.json").read_text())
    config["data_checksum"] += 1
    (run / "config.json").write_text(json.dumps(config))
    return "the data of digits are not those"


@pytest.mark.parametrize(
    "damage",
    [
        damage_checkpoint,
        lose_checkpoint,
        take_the_checkpoint_of_another_run,
        take_the_checkpoint_of_other_data,
        change_metrics,
        lose_metrics,
        change_config,
        lose_config,
        damage_config,
        change_recipe,
        change_data,
    ],
)
def test_a_damaged_run_is_refused_and_nothing_is_overwritten(
    run: Path, fastalign: Fastalign, damage: Callable[[Path], str]
) -> None:
    says = damage(run)
    before = contents(run)
    result = fastalign(*SETTINGS, "--out", run, "--resume")
    assert result.code == 2
    assert says in result.error
    assert "Traceback" not in result.error
    assert contents(run) == before


def test_a_folder_that_holds_a_run_is_refused(run: Path, fastalign: Fastalign) -> None:
    before = contents(run)
    result = fastalign(*SETTINGS, "--out", run)
    assert result.code == 2
    assert "already holds a run" in result.error
    assert "--resume" in result.error
    assert contents(run) == before


def test_a_finished_run_resumes_to_itself(run: Path, unbroken: Path, fastalign: Fastalign) -> None:
    assert fastalign(*SETTINGS, "--out", run, "--resume").code == 0
    assert_same_bits(run, unbroken)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, unbroken: Path, fastalign: Fastalign) -> None:
    out = tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((unbroken / "checkpoint").stat().st_size // 2, hard))
    try:
        full = fastalign(*SETTINGS, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert full.code == 2
    assert full.error == f"fastalign: {out / 'checkpoint'} cannot be written: File too large\n"
    assert {path.name for path in out.iterdir()} == {"config.json", "metrics.jsonl"}
    assert fastalign(*SETTINGS, "--out", out, "--resume").code == 0
    assert_same_bits(out, unbroken)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_link_to_a_file_of_somebody_is_not_followed(tmp_path: Path, fastalign: Fastalign, name: str) -> None:
    """Neither where a file of the run is to be, nor where a temporary one once was."""
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f"run/{name}.tmp").symlink_to(tmp_path / "mine")
    assert fastalign(*SETTINGS[:4], "--epochs", "1", "--out", "run").code == 0
    assert (tmp_path / "mine").read_text() == "mine"
    for to in ("mine", "nothing"):
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / name).symlink_to(tmp_path / to)
        result = fastalign(*SETTINGS[:4], "--epochs", "1", "--out", "run")
        assert result.code == 2
        assert "already holds a run" in result.error
        assert (tmp_path / "mine").read_text() == "mine"
        assert not (tmp_path / "nothing").exists()


def test_a_second_run_in_the_same_folder_is_kept_out(run: Path, fastalign: Fastalign) -> None:
    descriptor = os.open(run, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        result = fastalign(*SETTINGS, "--out", run, "--resume")
    finally:
        os.close(descriptor)
    assert result.code == 2
    assert "another run is using the folder" in result.error


def test_a_file_in_the_place_of_the_folder(tmp_path: Path, fastalign: Fastalign) -> None:
    (tmp_path / "run").write_text("mine")
    result = fastalign(*SETTINGS, "--out", "run")
    assert result.code == 2
    assert "run cannot be made: File exists" in result.error
    assert (tmp_path / "run").read_text() == "mine"


def test_a_folder_that_cannot_be_made(fastalign: Fastalign) -> None:
    result = fastalign(*SETTINGS, "--out", "/proc/fastalign/run")
    assert result.code == 2
    assert result.error.startswith("fastalign: the folder /proc/fastalign/run cannot be made: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every folder")
def test_a_folder_that_may_not_be_written(tmp_path: Path, fastalign: Fastalign) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    result = fastalign(*SETTINGS, "--out", "run")
    assert result.code == 2
    assert "cannot be written" in result.error
