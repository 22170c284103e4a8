"""What version 0.1 left behind: a run's folder, whose checkpoint has no checksum, and a state dict."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fastalign.nn as nn
from fastalign.errors import RunError
from fastalign.papers.experiments.digits import MLP
from fastalign.papers.report import find_runs, report
from fastalign.papers.runs.checkpoint import load_checkpoint
from fastalign.papers.runs.metrics import Metrics
from fastalign.papers.runs.progress import Progress
from fastalign.papers.runs.run import train

SAVED = Path(__file__).with_name("saved_by_0_1")
RECIPE = replace(MLP, architecture=replace(MLP.architecture, hidden=(4,)))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the run: RECIPE by DFA, two epochs."""
    return Path(shutil.copytree(SAVED / "run", tmp_path / "run"))


def train_on(run: Path, epochs: int) -> list[Metrics]:
    return train(RECIPE, "dfa", {"epochs": epochs, "device": "cpu"}, out=run, resume=True, progress=Progress())


def test_a_run_goes_on_and_has_a_checksum_from_then_on(run: Path, tmp_path: Path) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    history = train_on(run, 3)
    assert (run / "metrics.jsonl").read_bytes().startswith(before)
    anew = train_on(tmp_path / "anew", 3)
    assert history[2].train_loss == pytest.approx(anew[2].train_loss, rel=1e-4)
    assert load_checkpoint(run / "checkpoint")["format"] == 2
    assert train_on(run, 3) == history


def test_a_run_stands_in_a_report(run: Path) -> None:
    assert "fastalign: 1 run" in report(find_runs([run]))


def test_a_new_checkpoint_without_its_first_line_is_no_old_one(run: Path) -> None:
    train_on(run, 3)
    path = run / "checkpoint"
    content = path.read_bytes()
    path.write_bytes(content[content.index(b"PK\x03\x04") :])
    with pytest.raises(RunError, match="not a checkpoint of format 1"):
        load_checkpoint(path)


def test_a_network_computes_what_it_did() -> None:
    saved = torch.load(SAVED / "network.pt", weights_only=True)
    features = (nn.Conv2d(1, 2, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten())
    net = nn.Sequential(*features, nn.Linear(18, 5), nn.Tanh(), nn.Linear(5, 3), rule="dfa", input_shape=(1, 8, 8))
    net.load_state_dict(saved["model"])
    torch.testing.assert_close(net(saved["x"]), saved["outputs"])
