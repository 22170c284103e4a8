from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Fastalign, command, environment, metrics_of

from fastalign import TrainStep, cli
from fastalign.papers import demo
from fastalign.papers.experiments import EXPERIMENTS
from fastalign.papers.runs.checkpoint import load_checkpoint


def test_a_run_writes_its_files_and_a_line_for_each_epoch(tmp_path: Path, fastalign: Fastalign) -> None:
    result = fastalign("train", "digits/mlp", "--rule", "pepita", "--epochs", "2", "--lr", "0.02", "--device", "cpu")
    assert result.code == 0, result.error
    out = tmp_path / "runs/digits/mlp/pepita"
    lines = result.out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert len(lines) == 3
    assert "\r" not in result.out + result.error
    rows = metrics_of(out)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0]["lr"] == 0.02
    assert f"test error {rows[1]['test_error']:.2f} %" in lines[2]
    config = json.loads((out / "config.json").read_text())
    settings = config["settings"]
    assert config["made_by"]["machine"]["cores"] >= 1
    assert config["made_by"]["torch"] == torch.__version__
    assert settings["lr"] == 0.02
    assert settings["seed"] == 0
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_plain_loop_gives_the_numbers_of_the_fused_step(
    tmp_path: Path, fastalign: Fastalign, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("train", "digits/mlp", "--rule", "pepita", "--epochs", "3", "--device", "cpu", "--dtype", "float64")
    steps = []

    def counted(*batch: Any, step: Any = TrainStep.step) -> torch.Tensor:
        steps.append(batch)
        return step(*batch)

    monkeypatch.setattr(TrainStep, "step", counted)
    assert fastalign(*arguments, "--out", "fused").code == 0
    assert len(steps) == 3 * 45
    assert fastalign(*arguments, "--out", "loop", "--no-fused-step").code == 0
    assert len(steps) == 3 * 45
    settings = json.loads((tmp_path / "loop/config.json").read_text())["settings"]
    assert settings["fused_step"] is False
    fused, loop = (metrics_of(tmp_path / out) for out in ("fused", "loop"))
    assert [row["test_error"] for row in loop] == [row["test_error"] for row in fused]
    assert [row["train_loss"] for row in loop] == pytest.approx([row["train_loss"] for row in fused], rel=1e-9)
    states = [load_checkpoint(tmp_path / out / "checkpoint") for out in ("fused", "loop")]
    torch.testing.assert_close(states[1]["model"], states[0]["model"], rtol=1e-9, atol=1e-12)


def test_the_bar_on_a_terminal_shows_throughput_and_time_left(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        command("train", "digits/mlp", "--rule", "bp", "--epochs", "8", "--device", "cpu"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=environment(),
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(controller, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    stdout, _ = process.communicate(timeout=60)
    os.close(controller)
    assert process.returncode == 0
    assert b"samples/s" in shown
    assert b"<" in shown  # elapsed<left
    assert stdout.count(b"test error") == 9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train", "digits/mpl", "--rule", "bp"), "no experiment 'digits/mpl'; did you mean digits/mlp"),
        (("train", "digits/conv", "--rule", "ifa"), "expected one of those of digits/conv: bp, fa, dfa, drtp, pepita"),
        (("train", "digits/mlp", "--rule", "bp", "--epochs", "0"), "epochs is 0, expected at least 1"),
        (("train", "digits/mlp", "--rule", "bp", "--batch-size", "-1"), "batch_size is -1, expected at least 1"),
        (("train", "digits/mlp", "--rule", "bp", "--lr", "nan"), "lr is nan, expected a positive number"),
        (("train", "digits/mlp", "--rule", "bp", "--seed", "-2"), "seed is -2"),
        (("train", "digits/mlp", "--rule", "bp", "--device", "tpu"), "device is 'tpu', expected cpu or cuda"),
        (("train", "digits/mlp", "--rule", "bp", "--freeze-filters"), "no filters to freeze in digits/mlp"),
        (("train", "pepita/mnist-fc", "--rule", "bp"), "give --data DIR or set FASTALIGN_DATA"),
        (("train", "pepita/mnist-fc", "--rule", "bp", "--data", "nowhere"), "the data folder nowhere is not a folder"),
        (("train", "pepita/mnist-fc", "--rule", "bp", "--data", "."), "train-images-idx3-ubyte"),
    ],
)
def test_a_wrong_command_is_one_line_and_leaves_nothing_behind(
    arguments: tuple[str, ...], says: str, tmp_path: Path, fastalign: Fastalign
) -> None:
    result = fastalign(*arguments)
    assert result.code == 2
    assert says in result.error
    assert result.error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_exit_with_2() -> None:
    for arguments in (
        [],
        ["train"],
        ["train", "digits/mlp"],
        ["train", "digits/mlp", "--rule", "bp", "--dtype", "int8"],
        ["train", "digits/mlp", "--rule", "bp", "--out", ""],
        ["report", "runs", "--out", ""],
        ["train", "digits/mlp", "--rule", "bp", "--seeds", "0-99999999999"],
        ["train", "digits/mlp", "--rule", "bp", "--seeds", "0-" + "9" * 5000],
    ):
        with pytest.raises(SystemExit) as exit_:
            cli.main(arguments)
        assert exit_.value.code == 2


def test_experiments_are_listed_one_a_line_with_what_each_needs(fastalign: Fastalign) -> None:
    lines = fastalign("experiments").out.splitlines()
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS)
    needs = {line.split()[0]: line.partition("needs ")[2] for line in lines}
    assert needs["digits/mlp"] == "scikit-learn"
    assert needs["pepita/cifar10-conv"] == "--data DIR with cifar10"
    for name in (
        "nokland/mnist-2x800-tanh",
        "nokland/mnist-100x240-tanh",
        "nokland/cifar10-3x1000-tanh",
        "pepita/mnist-fc",
        "pepita/mnist-conv",
        "pepita/cifar10-fc",
        "digits/conv",
    ):
        assert name in needs


def test_info_for_people_and_programs(fastalign: Fastalign) -> None:
    assert "torch" in fastalign("info").out
    assert "torch" in json.loads(fastalign("info", "--json").out)


def test_the_demo_compares_three_rules_with_plain_pytorch(
    fastalign: Fastalign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastalign.papers.demo.EPOCHS", 2)
    monkeypatch.setattr("fastalign.papers.demo.SECONDS", 0.1)
    result = fastalign("demo")
    assert result.code == 0, result.error
    lines = result.out.splitlines()
    assert max(map(len, lines[:-1])) <= 100
    rows = [re.findall(r"[A-Z]+|[\d.]+", line) for line in lines if " µs" in line]
    assert [row[0] for row in rows] == ["BP", "DFA", "PEPITA"]
    for _, error, ours, loop, faster_than_loop, best, faster_than_best in rows:
        assert float(error) < 60
        for theirs, factor in ((loop, faster_than_loop), (best, faster_than_best)):
            assert float(factor) == pytest.approx(float(theirs) / float(ours), rel=0.1, abs=0.1)
    assert "DFA and PEPITA learn without backpropagation" in result.out
    assert lines[-1].endswith("-m fastalign train digits/conv --rule dfa")
    assert Path("runs/demo/curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("executable", "on_path", "called"),
    [
        ("{here}/.venv/bin/python3", "/usr/bin/python3", ".venv/bin/python3"),
        ("/opt/bin/python3", "/opt/bin/python3", "python3"),
        ("/opt/bin/python3", None, "/opt/bin/python3"),
    ],
)
def test_the_demo_names_a_python_that_can_be_typed(
    executable: str, on_path: str | None, called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", executable.format(here=tmp_path))
    monkeypatch.setattr(shutil, "which", lambda _: on_path)
    assert demo.python_to_type() == called


def test_without_the_extra_the_run_ends_and_says_what_is_missing(
    fastalign: Fastalign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments = ("train", "digits/mlp", "--rule", "bp", "--epochs", "1", "--device", "cpu")
    hint = "needs the package {}: pip install 'fastalign[train]'\n"
    result = fastalign(*arguments, "--out", "a")
    assert result.code == 0
    assert result.error.endswith(hint.format("matplotlib"))
    result = fastalign("demo")
    assert result.code == 2
    assert result.error.endswith(hint.format("matplotlib"))
    assert result.out == ""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "sklearn.datasets", raising=False)
    result = fastalign(*arguments, "--out", "b")
    assert result.code == 2
    assert result.error.endswith(hint.format("sklearn"))


def test_listing_the_experiments_loads_no_optional_package() -> None:
    code = (
        "import sys; from fastalign import cli; cli.main(['experiments']); "
        "print([name for name in ('matplotlib', 'sklearn') if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stderr.strip() == "[]"
