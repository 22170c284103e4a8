"""The command `reproduce`, on a table of experiments that take seconds."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, Fastalign, assert_saved_and_left, environment, metrics_of

from fastalign.papers.experiments.published import BP, PEPITA, PEPITA_FROZEN, TABLES, Published, Table

DIGITS = Table(
    "D1",
    "Digits",
    "accuracy",
    (BP, PEPITA, PEPITA_FROZEN),
    {"digits/mlp": {"bp": Published("95.00 ± 0.50", 95.0, 0.5)}, "digits/conv": {}},
)
# Of a data set that is there, and of one that is not.
MIXED = Table("D2", "Mixed", "error", (BP,), {"pepita/mnist-fc": {}, "digits/mlp": {}, "nokland/mnist-1x800-tanh": {}})
# The command in a process of its own, with that table.
START = (
    "import sys; sys.path[:0] = {folders!r}; import test_reproduce as t; t.TABLES['D1'] = t.DIGITS; "
    "from fastalign import cli; sys.exit(cli.main(sys.argv[1:]))"
)


@pytest.fixture(autouse=True)
def digits_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLES, "D1", DIGITS)
    monkeypatch.setitem(TABLES, "D2", MIXED)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_table_is_run_printed_written_and_not_run_again(
    tmp_path: Path, fastalign: Fastalign, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("reproduce", "D1", "--rows", "mlp", "--rules", "bp", "--seeds", "2")
    result = fastalign(*command, "--epochs", "1", "--out", "o")
    assert result.code == 0, result.error
    out = tmp_path / "o"
    assert {path.name for path in out.iterdir()} == {"D1.md", "D1.csv", "D1.png", "D1.svg", "digits"}
    assert (out / "D1.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (out / "D1.svg").read_bytes()
    rows = rows_of(out / "D1.csv")
    assert [(row["column"], row["seeds"], row["most_epochs"]) for row in rows] == [("bp", "2", "1")]
    folders = [out / f"digits/mlp/bp/seed-{seed}" for seed in (0, 1)]
    errors = [metrics_of(folder)[0]["test_error"] for folder in folders]
    assert errors[0] != errors[1]
    assert float(rows[0]["ours"]) == pytest.approx(100 - sum(errors) / 2, abs=1e-4)
    assert f"mlp bp seed 1: epoch 1/1, test accuracy {100 - errors[1]:.2f} %" in result.out
    assert "95.00 ± 0.50" in result.out
    assert "1 of 30, 2 seeds" in (out / "D1.md").read_text()

    # More epochs go on from there, in the same folders.
    assert fastalign(*command, "--epochs", "3", "--out", "o").code == 0
    assert [len(metrics_of(folder)) for folder in folders] == [3] * 2
    assert [metrics_of(folder)[0]["test_error"] for folder in folders] == errors
    monkeypatch.setattr(subprocess, "Popen", None)
    assert fastalign(*command, "--epochs", "3", "--out", "o").code == 0
    assert fastalign(*command, "--epochs", "1", "--out", "o").code == 0
    assert rows_of(out / "D1.csv") == rows


def test_frozen_filters_stand_beside_the_rule(tmp_path: Path, fastalign: Fastalign) -> None:
    result = fastalign(
        "reproduce", "D1", "--rows", "conv", "--rules", "pepita", "pepita-frozen", "--seeds", "1", "--epochs", "1"
    )
    assert result.code == 0, result.error
    rows = rows_of(tmp_path / "runs/papers/D1.csv")
    assert [(row["experiment"], row["column"]) for row in rows] == [
        ("digits/conv", "pepita"),
        ("digits/conv", "pepita-frozen"),
    ]
    configs = [
        json.loads((tmp_path / f"runs/papers/digits/conv/{name}/seed-0/config.json").read_text())
        for name in ("pepita", "pepita-frozen")
    ]
    assert [config["settings"]["freeze_filters"] for config in configs] == [False, True]


def test_interrupted_it_stops_every_run_and_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    def start(out: str) -> subprocess.Popen[str]:
        folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
        code = START.format(folders=folders)
        options = ["reproduce", "D1", "--rows", "mlp", "--rules", "bp", "--seeds", "1", "--epochs", "150", "--out", out]
        return subprocess.Popen(
            [sys.executable, "-c", code, *options], cwd=tmp_path, env=environment(), stdout=-1, stderr=-1, text=True
        )

    unbroken = start("whole")
    run = tmp_path / "stopped/digits/mlp/bp/seed-0"
    for stop in (signal.SIGTERM, signal.SIGKILL):  # Ctrl-C is what SIGTERM is, and tested with several seeds
        process = start("stopped")
        before = len(metrics_of(run)) if run.exists() else 0
        while process.poll() is None and not ((run / "checkpoint").exists() and len(metrics_of(run)) > before):
            time.sleep(0.01)
        process.send_signal(stop)
        _, errors = process.communicate(timeout=200)
        if stop is signal.SIGKILL:
            assert process.returncode == -stop
        else:
            assert process.returncode == 130, errors
            assert errors.splitlines()[-1].endswith("the same command goes on")
        assert_saved_and_left(run)
        assert before < len(metrics_of(run)) < 150
    assert start("stopped").wait(timeout=200) == 0
    assert unbroken.wait(timeout=200) == 0
    assert metrics_of(tmp_path / "whole/digits/mlp/bp/seed-0") == metrics_of(run)


def test_a_run_that_fails_leaves_the_others_and_is_named(tmp_path: Path, fastalign: Fastalign) -> None:
    in_use = tmp_path / "o/digits/mlp/bp/seed-0"
    in_use.mkdir(parents=True)
    descriptor = os.open(in_use, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    result = fastalign(
        "reproduce", "D1", "--rows", "mlp", "--rules", "bp", "pepita", "--seeds", "1", "--epochs", "1", "--out", "o"
    )
    os.close(descriptor)
    assert result.code == 2
    assert "1 of 2 runs failed" in result.error
    assert "another run is using the folder" in result.error
    assert [row["seeds"] for row in rows_of(tmp_path / "o/D1.csv")] == ["0", "1"]
    assert "no run" in result.out


def test_rows_without_data_are_left_out_unless_they_are_named(tmp_path: Path, fastalign: Fastalign) -> None:
    says = "left out: mnist-fc, mnist-1x800-tanh: no data folder: give --data DIR or set FASTALIGN_DATA\n"
    result = fastalign("reproduce", "D2", "--seeds", "1", "--epochs", "1", "--out", "o")
    assert result.code == 0
    assert result.error == says
    assert says in result.out
    assert [row["experiment"] for row in rows_of(tmp_path / "o/D2.csv")] == ["digits/mlp"]
    before = (tmp_path / "o/D2.csv").read_bytes()
    result = fastalign("reproduce", "D2", "--rows", "mlp", "mnist-fc", "--seeds", "1", "--epochs", "1", "--out", "o")
    assert result.code == 2
    assert result.error == "fastalign: no data folder: give --data DIR or set FASTALIGN_DATA\n"
    assert (tmp_path / "o/D2.csv").read_bytes() == before


def test_damaged_data_are_an_error(tmp_path: Path, fastalign: Fastalign) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        (folder / name).write_bytes(b"no such file")
    result = fastalign("reproduce", "D2", "--seeds", "1", "--epochs", "1", "--data", folder, "--out", "o")
    assert result.code == 2
    assert "get it again from" in result.error
    assert not (tmp_path / "o").exists()


def test_a_folder_with_other_settings_is_refused(tmp_path: Path, fastalign: Fastalign) -> None:
    folder = tmp_path / "o/digits/mlp/bp/seed-0"
    arguments = ("train", "digits/mlp", "--rule", "bp", "--epochs", "1", "--lr", "0.3", "--out", folder)
    assert fastalign(*arguments, "--device", "cpu").code == 0
    result = fastalign("reproduce", "D1", "--epochs", "1", "--out", "o")
    assert result.code == 2
    assert "holds a run with other settings than digits/mlp has" in result.error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("B2",), "there is no 'B2', expected one of A1, A2, A3, A-IFA, B1, D1, D2, A-freeze"),
        (("B1", "--rows", "mnist"), "rows: there is no 'mnist', expected some of mnist-fc"),
        (("B1", "--rules", "dfa"), "rules: there is no 'dfa', expected some of bp, fa, drtp, pepita, pepita-frozen"),
        (("B1", "--rows", "mnist-fc", "--rules", "pepita-frozen"), "none of these rules"),
        (("B1", "--seeds", "0"), "seeds is 0, expected at least 1"),
        (("B1", "--epochs", "0"), "epochs is 0, expected at least 1"),
        (("B1", "--jobs", "0"), "jobs is 0, expected at least 1"),
        (("B1",), "give --data DIR or set FASTALIGN_DATA"),
        (("B1", "--rows", "mnist-fc"), "give --data DIR or set FASTALIGN_DATA"),
    ],
)
def test_a_wrong_command_is_one_line_and_leaves_nothing_behind(
    arguments: tuple[str, ...], says: str, tmp_path: Path, fastalign: Fastalign
) -> None:
    result = fastalign("reproduce", *arguments)
    assert result.code == 2
    assert says in result.error
    assert result.error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
