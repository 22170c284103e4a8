"""Updates whose δ fill the cache are made before there are more: in more calls, and in the same bits."""

from __future__ import annotations

import pytest
import torch
from calls import Calls
from torch import Tensor

import fastalign.nn as nn
from fastalign import TrainStep

HIDDEN = 4


def train(assigned: list[str]) -> tuple[list[Tensor], Calls]:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8, activation="tanh") for _ in range(HIDDEN)]
    net = nn.Sequential(*layers, nn.Linear(8, 3), rule="dfa")
    net.set_rule([*assigned, "bp"])
    step = TrainStep(net, loss="cross_entropy", optimizer=torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9))
    data = [(torch.rand(16, 8), torch.randint(3, (16,))) for _ in range(5)]
    with Calls() as calls:  # of the first step: the extension replays later ones, and no mode sees into it
        step.step(*data[0])
    for batch in data[1:]:
        step.step(*batch)
    return list(net.parameters()), calls


@pytest.mark.parametrize(
    "assigned",
    [["dfa"] * HIDDEN, ["drtp"] * HIDDEN, ["bp", "dfa", "dfa", "dfa"], ["dfa", "fa", "drtp", "drtp"]],
    ids=str,
)
def test_the_same_bits(assigned: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule below that goes back through a layer's weights finds them where they were."""
    expected, together = train(assigned)
    for module in ("engine.run", "step.sink"):
        monkeypatch.setattr(f"fastalign.{module}.CACHED", 1)
    found, one_by_one = train(assigned)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert one_by_one.names.count("feedback_terms") > together.names.count("feedback_terms") > 0
    if len(set(assigned)) == 1:
        assert one_by_one.names.count("linear_steps_") > together.names.count("linear_steps_") > 0
