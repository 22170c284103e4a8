"""Trains small networks in every process that torchrun starts, and saves what came of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastalign.papers import data
from fastalign.papers.data import Dataset, Splits
from fastalign.papers.experiments.digits import MLP
from fastalign.papers.runs.distributed import Processes
from fastalign.papers.runs.loop import Trainer, TrainerState
from fastalign.papers.runs.recipe import RuleRecipe

# The last of the batches of 32 holds one sample: one of two processes has none.
SAMPLES, BATCH = 129, 32
CASES = [(rule, reduction) for rule in ("bp", "fa", "dfa", "ifa", "drtp", "pepita") for reduction in ("mean", "sum")]


def train(rule: str, reduction: str, processes: Processes) -> dict[str, Any]:
    """Two epochs of digits/mlp in float64: the metrics without the seconds, and the weights."""
    digits = data.load("digits")
    splits = Splits(Dataset(digits.train.images[:SAMPLES], digits.train.labels[:SAMPLES], 10), digits.test)
    options = {"error_scale": 1.0} if rule == "drtp" else {}
    recipe = replace(
        MLP,
        reduction=reduction,
        rules={rule: RuleRecipe(0.05 if reduction == "mean" else 0.002, "uniform-fan-in", options)},
    )
    trainer = Trainer(
        recipe, rule, splits, batch_size=BATCH, seed=4, device="cpu", dtype=torch.float64, processes=processes
    )
    epochs = [trainer.train_epoch(), trainer.train_epoch()]
    metrics = [(epoch.train_loss, epoch.train_error, epoch.test_error) for epoch in epochs if epoch is not None]
    return {"metrics": torch.tensor(metrics), "weights": [weight.detach() for weight in trainer.network.parameters()]}


def train_with_a_stop(processes: Processes, stop: bool) -> TrainerState:
    """Two epochs with dropout; `stop`: the last process asks for one in the second epoch, and a new trainer goes on."""
    digits = data.load("digits")
    recipe = replace(MLP, architecture=replace(MLP.architecture, hidden=(16,), hidden_dropout=0.2))

    def trainer() -> Trainer:
        return Trainer(recipe, "dfa", digits, seed=4, device="cpu", processes=processes)

    def asked_to_stop() -> bool:
        return stop and processes.rank == processes.count - 1 and first.epochs_done == 1 and first.samples_so_far > 500

    first = trainer()
    assert first.train_epoch(asked_to_stop) is not None
    if first.train_epoch(asked_to_stop) is None:
        state = first.state()
        assert 500 < state["epoch_so_far"]["samples"] < len(digits.train)
        first = trainer()
        first.restore(state)
        first.train_epoch()
    return first.state()


if __name__ == "__main__":
    processes = Processes.from_environment()
    with processes.connected():
        results: dict[Any, Any] = {case: train(*case, processes) for case in CASES}
        results["stopped"] = train_with_a_stop(processes, stop=True)
        results["unbroken"] = train_with_a_stop(processes, stop=False)
        torch.save(results, Path(sys.argv[1], f"rank{processes.rank}"))
