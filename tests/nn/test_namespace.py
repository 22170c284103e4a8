"""`import fastalign.nn as nn` in place of `import torch.nn as nn`."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch

import fastalign.nn as nn

OURS = {"Block", "Conv2d", "Linear", "Sequential"}


def test_every_other_name_is_that_of_torch() -> None:
    public = {name for name in dir(torch.nn) if not name.startswith("_")}
    assert len(public) > 150
    assert public <= set(dir(nn))
    assert public - OURS == {name for name in public if getattr(nn, name) is getattr(torch.nn, name, None)}
    assert issubclass(nn.Linear, torch.nn.Linear)
    assert issubclass(nn.Conv2d, torch.nn.Conv2d)
    assert issubclass(nn.Sequential, torch.nn.Sequential)
    with pytest.raises(AttributeError, match="Linaer"):
        _ = nn.Linaer


def test_submodules_of_torch_are_reached_by_name() -> None:
    from fastalign.nn import Module, Parameter, functional, init

    assert (Module, Parameter) == (torch.nn.Module, torch.nn.Parameter)
    assert (functional, init) == (torch.nn.functional, torch.nn.init)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import fastalign.nn.functional as it", torch.nn.functional),
        ("import fastalign.nn.utils.rnn as it", torch.nn.utils.rnn),
        ("from fastalign.nn.init import zeros_ as it", torch.nn.init.zeros_),
        ("from fastalign.nn.modules.batchnorm import BatchNorm1d as it", torch.nn.BatchNorm1d),
        ("from fastalign.nn.parallel import DistributedDataParallel as it", torch.nn.parallel.DistributedDataParallel),
        ("from fastalign.nn.parameter import Parameter as it", torch.nn.Parameter),
        ("from fastalign.nn.utils import clip_grad_norm_ as it", torch.nn.utils.clip_grad_norm_),
        ("from fastalign.nn.utils import parametrize as it", torch.nn.utils.parametrize),
    ],
)
def test_submodules_of_torch_are_imported_under_our_name(line: str, expected: object) -> None:
    names: dict[str, object] = {}
    exec(line, names)
    assert names["it"] is expected


def test_a_star_gives_what_torchs_gives_and_ours() -> None:
    ours: dict[str, object] = {}
    theirs: dict[str, object] = {}
    exec("from fastalign.nn import *", ours)
    exec("from torch.nn import *", theirs)
    assert ours.keys() == theirs.keys() | OURS
    assert all(ours[name] is theirs[name] for name in theirs.keys() - OURS - {"__builtins__"})
    assert all(ours[name] is getattr(nn, name) for name in OURS)


def test_what_a_user_types_is_shown_and_nothing_else() -> None:
    assert {name for name in dir(torch.nn) if not name.startswith("_")} | OURS == set(dir(nn))


STRANGER = """
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(x + self.bn2(self.conv2(h)))


def smoothed(logits, target):
    log = F.log_softmax(logits, 1)
    return 0.9 * F.nll_loss(log, target) - 0.1 * log.mean()


net = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1, bias=False),
    nn.BatchNorm2d(8),
    nn.ReLU(inplace=True),
    Residual(8),
    nn.MaxPool2d(2),
    Residual(8),
    nn.AdaptiveAvgPool2d(2),
    nn.Flatten(),
    nn.Dropout(0.1),
    nn.Linear(32, 4),
)

pictures = torch.rand(64, 1, 8, 8)
labels = torch.arange(64) % 4
for i, label in enumerate(labels):
    pictures[i, 0, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 1
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
for step in range(30):
    chosen = torch.randint(64, (32,))
    optimizer.zero_grad()
    loss = smoothed(net(pictures[chosen]), labels[chosen])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
    optimizer.step()
net.eval()
with torch.no_grad():
    print("loss", loss.item(), "errors", int((net(pictures).argmax(1) != labels).sum()))
"""


@pytest.mark.parametrize("rule", [None, "bp", "fa", "dfa"])
def test_a_script_of_somebody_else(rule: str | None) -> None:
    """Residual blocks, BatchNorm, Adam and a loss of their own; two lines changed. None: as it came."""
    script = STRANGER
    if rule is not None:
        script = script.replace("import torch.nn as nn", "import fastalign.nn as nn")
        script = script.replace(
            "    nn.Linear(32, 4),\n)", f"    nn.Linear(32, 4),\n    rule={rule!r}, input_shape=(1, 8, 8),\n)"
        )
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    found = re.fullmatch(r"loss (\S+) errors (\d+)\n", run.stdout)
    assert found is not None
    chance = 1.386
    assert float(found[1]) < 0.6 * chance
    assert int(found[2]) <= 6
