"""torch.utils.flop_counter counts a network's matrix products, and leaves its backward pass alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

import fastalign
import fastalign.nn as nn
from fastalign import ops

N, Y = 4, torch.tensor([0, 3, 1, 2])

NETWORKS: dict[str, tuple[Callable[[], list[torch.nn.Module]], tuple[int, ...]]] = {
    "dense": (lambda: [nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 5)], (12,)),
    "other modules": (lambda: [nn.Flatten(), nn.Linear(12, 5), nn.LayerNorm(5)], (3, 4)),
    "nested, with a block": (
        lambda: [
            torch.nn.Sequential(nn.Linear(12, 6), nn.Identity()),
            nn.Block(torch.nn.Sequential(nn.Linear(6, 6), nn.ReLU())),
            nn.Linear(6, 5),
        ],
        (12,),
    ),
    "convolutional": (
        lambda: [nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)],
        (2, 8, 8),
    ),
}


def gradients_and_flops(net: torch.nn.Module, x: Tensor, *target: Tensor) -> tuple[list[Tensor], int]:
    net.zero_grad()
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(net(x, *target), Y).backward()
    return [p.grad for p in net.parameters() if p.grad is not None], counter.get_total_flops()


@pytest.mark.parametrize("name", NETWORKS)
def test_under_bp_it_counts_what_it_counts_of_torch(name: str) -> None:
    make, shape = NETWORKS[name]
    layers, x = make(), torch.rand(N, *shape)
    found = gradients_and_flops(nn.Sequential(*layers, rule="bp"), x)
    torch.testing.assert_close(found, gradients_and_flops(torch.nn.Sequential(*layers), x))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rule", ["fa", "dfa", "ifa", "drtp"])
def test_other_rules_learn_as_ever(rule: str, name: str) -> None:
    if rule == "ifa" and name in ("nested, with a block", "convolutional"):
        pytest.skip("IFA has linear layers only")
    make, shape = NETWORKS[name]
    net, x = nn.Sequential(*make(), rule=rule, input_shape=shape), torch.rand(N, *shape)
    F.cross_entropy(net(x, Y), Y).backward()
    expected = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    found, flops = gradients_and_flops(net, x, Y)
    torch.testing.assert_close(found, expected)
    assert flops > 0


def test_the_products_of_each_rule() -> None:
    """Two of the forward pass, the two of the updates, and what brings the error down."""
    forward = 2 * N * (12 * 20 + 20 * 5)
    down = {"fa": 20 * 5, "dfa": 20 * 5, "drtp": 20 * 5, "ifa": 20 * 5}
    for rule, product in down.items():
        net = nn.Sequential(*NETWORKS["dense"][0](), rule=rule)
        assert gradients_and_flops(net, torch.rand(N, 12), Y)[1] == 2 * forward + 2 * N * product
    net = nn.Sequential(*NETWORKS["dense"][0](), rule="pepita")
    modulation, modulated = 12 * 5, 12 * 20
    assert gradients_and_flops(net, torch.rand(N, 12))[1] == 2 * forward + 2 * N * (modulation + modulated)


def test_a_counter_of_the_first_step_and_in_turn() -> None:
    net = nn.Sequential(*NETWORKS["dense"][0](), rule="dfa")
    counts = [gradients_and_flops(net, torch.rand(N, 12))[1] for _ in range(3)]
    assert len(set(counts)) == 1
    assert counts[0] > 0


def test_a_training_step() -> None:
    """Whose optimizer steps as the updates are formed."""
    net = nn.Sequential(*NETWORKS["dense"][0](), rule="dfa")
    expected = gradients_and_flops(net, torch.rand(N, 12))[1]
    assert expected > 0
    step = fastalign.TrainStep(net, loss="cross_entropy", optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    for _ in range(3):
        with FlopCounterMode(display=False) as counter:
            step.step(torch.rand(N, 12), Y)
        assert counter.get_total_flops() == expected


def test_public_functions() -> None:
    e, b, a, x = torch.rand(4, 3), torch.rand(7, 3), torch.rand(4, 7), torch.rand(4, 5)
    maps, images = torch.rand(2, 4, 6, 6), torch.rand(2, 2, 8, 8)
    b_maps, e_maps = torch.rand(144, 3), torch.rand(2, 3)
    kernel = 2 * maps.numel() * 1 * 9
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), rule="dfa")
    with FlopCounterMode(display=False):
        net(torch.rand(1, 2))
    cases: list[tuple[Callable[[], object], int]] = [
        (lambda: ops.dfa_projection(e, b, a), 2 * 4 * 3 * 7),
        (lambda: ops.dfa_linear_update(e, b, a, x), 2 * 4 * 3 * 7 + 2 * 4 * 7 * 5),
        (lambda: ops.pepita_linear_update(a, a, x), 2 * 4 * 7 * 5),
        (lambda: ops.modulate_input(x, e, torch.rand(5, 3)), 2 * 4 * 3 * 5),
        (lambda: ops.dfa_conv2d_update(e_maps, b_maps, maps, images, 3, groups=2), 2 * 2 * 3 * 144 + kernel),
        (lambda: ops.pepita_conv2d_update(maps, maps, images, 3, groups=2), kernel),
    ]
    for call, expected in cases:
        with FlopCounterMode(display=False) as counter:
            call()
        assert counter.get_total_flops() == expected


@pytest.mark.parametrize("rule", ["bp", "dfa", "pepita"])
def test_a_module_tracker(rule: str) -> None:
    """It registers hooks on what modules get, which must be no leaf of a graph within the network."""
    net = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6).eval(), nn.Flatten(), nn.Linear(6, 5), rule=rule)
    with ModuleTracker() as tracker:
        F.cross_entropy(net(torch.rand(N, 12)), Y).backward()
        assert tracker.parents == {"Global"}


def test_importing_fastalign_does_not_import_the_counter() -> None:
    check = "import sys, fastalign; sys.exit('torch.utils.flop_counter' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
