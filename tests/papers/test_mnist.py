"""One epoch on a third of real MNIST: far above what ten epochs reach, far below what a wrong sign or scale gives."""

from __future__ import annotations

import os

import pytest

from fastalign.papers import data
from fastalign.papers.data import Dataset, Splits
from fastalign.papers.experiments import experiment
from fastalign.papers.runs.loop import Trainer

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif("FASTALIGN_DATA" not in os.environ, reason="FASTALIGN_DATA does not point to MNIST"),
]


@pytest.fixture(scope="module")
def mnist() -> Splits:
    whole = data.load("mnist")
    return Splits(Dataset(whole.train.images[:20_000], whole.train.labels[:20_000], whole.train.classes), whole.test)


@pytest.mark.parametrize(
    ("name", "rule", "at_most"),
    [
        ("pepita/mnist-fc", "pepita", 12.0),
        ("pepita/mnist-fc", "drtp", 10.5),
        ("nokland/mnist-2x800-tanh", "dfa", 17.0),
    ],
)
def test_the_test_error_after_one_epoch(mnist: Splits, name: str, rule: str, at_most: float) -> None:
    metrics = Trainer(experiment(name), rule, mnist).train_epoch()
    assert metrics is not None
    assert metrics.test_error <= at_most
