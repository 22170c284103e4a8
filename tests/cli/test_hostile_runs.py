"""Folders of runs in which a file holds something else: `report` and `train --resume` say so in one line, or go on."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Fastalign, command, environment

from fastalign.papers.runs.checkpoint import FORMAT_WITHOUT_CHECKSUM, load_checkpoint

RUN = ("train", "digits/mlp", "--rule", "dfa", "--device", "cpu")
Change = Callable[[Path], object]
BIG = 10**400
NESTED = "[" * 100_000 + "]" * 100_000
SURROGATE = "\ud800"
value: Any
QUICK: dict[str, Change] = {}
SLOW: dict[str, Change] = {}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one epoch."""
    out = tmp_path_factory.mktemp("whole") / "run"
    arguments = command(*RUN, "--epochs", "1", "--out", out)
    subprocess.run(arguments, env=environment(), check=True, timeout=120, capture_output=True)
    return out


def in_config(*path: str, value: Any) -> Change:
    def change(run: Path) -> None:
        config = json.loads((run / "config.json").read_text())
        holder = config
        for name in path[:-1]:
            holder = holder[name]
        holder[path[-1]] = value
        (run / "config.json").write_text(json.dumps(config))

    return change


def in_metrics(name: str, text: str) -> Change:
    def change(run: Path) -> None:
        line = json.loads((run / "metrics.jsonl").read_text())
        line[name] = "HERE"
        (run / "metrics.jsonl").write_text(json.dumps(line).replace('"HERE"', text) + "\n")

    return change


def in_checkpoint(*path: Any, value: Any = None, delete: bool = False) -> Change:
    """Of the format without a checksum, which would refuse all that it is not of."""

    def change(run: Path) -> None:
        state: dict[str, Any] = {**load_checkpoint(run / "checkpoint"), "format": FORMAT_WITHOUT_CHECKSUM}
        del state["run"]
        holder = state
        for name in path[:-1]:
            holder = holder[name]
        if delete:
            del holder[path[-1]]
        else:
            holder[path[-1]] = value
        torch.save(state, run / "checkpoint")

    return change


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


VALUES: tuple[Any, ...] = (None, 5, 1.5, "x", True, [], {}, BIG, SURROGATE, -1, 1e300)
TEXTS = ('"x"', "[1]", '{"a": 1}', str(BIG), NESTED, "Infinity", "1e999", "1e308", "-1e308", "true", "null")
OBSERVED = ('{"weight_norm": {"1": 1e308}}', '{"weight_norm": {"1": "x"}}', '{"gradient_angle": {"-5": 3}}')
STATES: tuple[Any, ...] = (None, "x", [], {}, 5, -5, 2**62, torch.zeros(3), {"a": "b"}, [torch.zeros(2)])

for setting, value in (
    *(("device", 5), ("seed", 1.5), ("lr", BIG), ("epochs", 2.5), ("experiment", r"$\undefined{$")),
    *(("rule", SURROGATE), ("fused_step", None)),
):
    QUICK[f"settings.{setting}={value!r:.20}"] = in_config("settings", setting, value=value)
for part, value in (("recipe", None), ("recipe", nested(400)), ("made_by", []), ("made_by", "x"), ("other", 1)):
    QUICK[f"{part}={value!r:.10}"] = in_config(part, value=value)
QUICK["source"] = in_config("recipe", "source", value=7)
QUICK["config nested"] = lambda run: (run / "config.json").write_text(NESTED)
for name, text in (
    *(("epoch", "-1e308"), ("test_error", "1e999"), ("test_error", '"x"'), ("lr", str(BIG)), ("seconds", NESTED)),
    *(("train_error", "null"), ("observations", OBSERVED[0])),
):
    QUICK[f"metrics.{name}={text:.10}"] = in_metrics(name, text)
for name in ("model", "epochs_done"):
    QUICK[f"without {name}"] = in_checkpoint(name, delete=True)
QUICK["no random states"] = in_checkpoint("random_states", value=[])
QUICK["text for a tensor"] = in_checkpoint("model", "0.weight", value="x")
QUICK["terabytes"] = in_checkpoint("model", "0.weight", value=torch.zeros(1).expand(1 << 20, 1 << 20))
QUICK["another network"] = in_checkpoint("model", "0.weight", value=torch.zeros(3, 3))
QUICK["momentum"] = in_checkpoint("optimizer", "state", 0, value={"momentum_buffer": torch.zeros(2)})
QUICK["options"] = in_checkpoint("optimizer", "param_groups", 0, "momentum", value="x")

for setting in ("experiment", "rule", "epochs", "batch_size", "lr", "seed", "device", "dtype", "processes", "observe"):
    for value in VALUES:
        SLOW[f"settings.{setting}={value!r:.20}"] = in_config("settings", setting, value=value)
for part in ("settings", "recipe", "made_by", "data_checksum"):
    for value in VALUES:
        SLOW[f"{part}={value!r:.20}"] = in_config(part, value=value)
for name in ("epoch", "train_loss", "train_error", "test_error", "seconds", "lr", "observations"):
    for text in (*TEXTS, *OBSERVED):
        SLOW[f"metrics.{name}={text:.30}"] = in_metrics(name, text)
for name in ("model", "optimizer", "epoch_so_far", "epochs_done", "permutation_state", "random_states"):
    for state in STATES:
        SLOW[f"checkpoint.{name}={state!r:.20}"] = in_checkpoint(name, value=state)
for tensor in (
    *(torch.zeros(2, 2, dtype=torch.complex64), torch.eye(3).to_sparse(), torch.zeros(3, 3, device="meta")),
    *(torch.zeros(0, 3), torch.tensor([[1e308, -1e308], [1.0, 2.0]], dtype=torch.float64), torch.ones(2, 2).bool()),
):
    SLOW[f"weight {tensor.dtype} {tensor.device} {tensor.shape}"] = in_checkpoint("model", "w.weight", value=tensor)


@pytest.mark.parametrize(
    "change",
    [
        *(pytest.param(change, id=name) for name, change in QUICK.items()),
        *(pytest.param(SLOW[name], id=name, marks=pytest.mark.slow) for name in SLOW if name not in QUICK),
    ],
)
def test_a_value_that_cannot_be_is_one_line_at_most(
    whole: Path, tmp_path: Path, fastalign: Fastalign, change: Change
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    change(tmp_path / "run")
    for arguments in (("report", "run"), (*RUN, "--epochs", "2", "--out", "run", "--resume")):
        result = fastalign(*arguments)
        assert result.code in (0, 2)
        assert result.error.count("\n") == (1 if result.code == 2 else 0)


def test_what_training_would_not_see_is_refused_before_it(whole: Path, tmp_path: Path, fastalign: Fastalign) -> None:
    for name in (
        "no random states",
        "text for a tensor",
        "another network",
        "momentum",
        "options",
        "without epochs_done",
    ):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(whole, tmp_path / "run")
        QUICK[name](tmp_path / "run")
        result = fastalign(*RUN, "--epochs", "2", "--out", "run", "--resume")
        assert result.code == 2, name
        assert "checkpoint is" in result.error


def test_folders_may_have_any_name(whole: Path, fastalign: Fastalign) -> None:
    for name in ("a$x_{$b", "c$x_{$d", b"\xff\xfe".decode(errors="surrogateescape"), "<i>"):
        shutil.copytree(whole, Path("runs", name))
    assert fastalign("report", "runs").code == 0
    assert "DFA runs/\N{REPLACEMENT CHARACTER}" in Path("report.html").read_text(encoding="utf-8")
