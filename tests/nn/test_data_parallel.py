"""DistributedDataParallel over two processes: the updates of one process, for every rule."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import fastalign.nn as nn
from fastalign import rules

N = 12
X = torch.rand(N, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
IMAGES = torch.rand(N, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TARGET = torch.randint(4, (N,), generator=torch.Generator().manual_seed(2))

DENSE: list[rules.Rule] = [
    rules.BP(),
    rules.FA(),
    rules.DFA(),
    rules.DFA(shared_feedback=True),
    rules.DFA(sign_of_error=True),
    rules.IFA(),
    rules.DRTP(),
    rules.PEPITA(projection_scale=1.0),
]
CONVOLUTIONAL = [rules.BP(), rules.DFA(), rules.PEPITA(projection_scale=1.0, frozen_filters=True)]
CASES = [(f"dense {rule}", rule, X) for rule in DENSE] + [(f"conv {rule}", rule, IMAGES) for rule in CONVOLUTIONAL]


def network(rule: rules.Rule, x: Tensor, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    if x is X:
        layers: list[torch.nn.Module] = [nn.Linear(8, 7, activation="tanh"), nn.Linear(7, 6), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(6, 4), rule=rule).double()
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3).eval().requires_grad_(False), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 4), rule=rule, input_shape=(2, 6, 6)).double()


def train(model: torch.nn.Module, x: Tensor, target: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x, target), target).backward()
        optimizer.step()


def fixed(net: nn.Sequential) -> list[str]:
    return [name for name, _ in net.named_buffers() if name.startswith(("feedback", "projection"))]


def work(rank: int, folder: str) -> None:
    """One process: its half of the batch, and a network of its own seed."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results: dict[str, Any] = {}
    mine = slice(rank * N // 2, (rank + 1) * N // 2)
    for name, rule, x in CASES:
        net = network(rule, x, seed=rank)
        model = DistributedDataParallel(net)
        synchronised = copy.deepcopy(net.state_dict())
        train(model, x[mine], TARGET[mine])
        after = {key: value.clone() for key, value in net.state_dict().items()}
        for key in fixed(net):
            net.get_buffer(key).add_(rank)  # a broadcast would take this back
        train(model, x[mine], TARGET[mine])
        left = {key: net.get_buffer(key) - after[key] for key in fixed(net)}
        others = [buffer.shape for buffer in model.modules_buffers]
        results[name] = {"synchronised": synchronised, "after": after, "left": left, "others": others}
    torch.save(results, f"{folder}/rank{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    mp.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}") for rank in range(2)]


@pytest.mark.parametrize("name", [case[0] for case in CASES])
def test_updates_are_those_of_one_process(name: str, results: list[dict[str, Any]]) -> None:
    _, rule, x = next(case for case in CASES if case[0] == name)
    alone = network(rule, x, seed=0)
    train(alone, x, TARGET)
    for result in results:
        torch.testing.assert_close(result[name]["after"], dict(alone.state_dict()))


@pytest.mark.parametrize("name", [case[0] for case in CASES])
def test_fixed_matrices_are_synchronised_once(name: str, results: list[dict[str, Any]]) -> None:
    """When the network is wrapped; then they stay as they are in each process, while other buffers are broadcast."""
    _, rule, x = next(case for case in CASES if case[0] == name)
    initial = dict(network(rule, x, seed=0).state_dict())
    for rank, result in enumerate(results):
        torch.testing.assert_close(dict(result[name]["synchronised"]), initial, rtol=0, atol=0)
        torch.testing.assert_close(
            result[name]["left"], {key: torch.full_like(initial[key], rank) for key in result[name]["left"]}
        )
        assert result[name]["others"] == ([] if x is X else [(3,), (3,), ()])
