"""Small networks under every rule, trained by the plain loop and by the fused step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

import fastalign.nn as nn
from fastalign import TrainStep, rules

CLASSES = 3
Batch = tuple[Tensor, Tensor]
MakeOptimizer = Callable[[list[torch.nn.Parameter]], Optimizer]

RULES: dict[str, rules.Rule] = {
    "bp": rules.BP(),
    "fa": rules.FA("he-uniform"),
    "dfa": rules.DFA(),
    "dfa, shared": rules.DFA(shared_feedback=True),
    "dfa, sign": rules.DFA(sign_of_error=True),
    "ifa": rules.IFA(),
    "drtp": rules.DRTP(),
    "pepita": rules.PEPITA(projection_scale=1.0),
    "pepita, output modulated": rules.PEPITA(projection_scale=1.0, output_error="modulated", divisor="sqrt"),
    "pepita, hebbian": rules.PEPITA(projection_scale=1.0, update="hebbian"),
    "pepita, frozen filters": rules.PEPITA(frozen_filters=True),
}


def dense() -> list[torch.nn.Module]:
    layers = [nn.Linear(8, 7, activation="tanh"), nn.Dropout(0.3), nn.Linear(7, 6, bias=False), nn.GELU()]
    return [*layers, nn.Linear(6, CLASSES)]


def convolutional() -> list[torch.nn.Module]:
    layers = [nn.Conv2d(2, 4, 3, padding=1, activation="tanh"), nn.MaxPool2d(3, 2), nn.Conv2d(4, 4, 2, groups=2)]
    return [*layers, nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(16, CLASSES, bias=False)]


def normalised() -> list[torch.nn.Module]:
    """Without biases before a norm: their gradient is rounding errors, which Adam would make steps of."""
    hidden, output = nn.Linear(100, 6), nn.Linear(6, CLASSES)
    for layer in (hidden, output):
        layer.register_parameter("bias", None)
    layers = [nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), hidden]
    return [*layers, nn.BatchNorm1d(6), nn.Tanh(), output, nn.BatchNorm1d(CLASSES)]


def with_block() -> list[torch.nn.Module]:
    inner = torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.ReLU(), torch.nn.Linear(9, 7))
    return [nn.Linear(8, 7), nn.Tanh(), nn.Block(inner), nn.ReLU(), nn.Linear(7, CLASSES)]


def with_shared_modules() -> list[torch.nn.Module]:
    layer, activation = nn.Linear(8, 8), nn.PReLU()
    return [layer, activation, layer, activation, nn.Linear(8, CLASSES)]


SHAPES: dict[Callable[[], list[torch.nn.Module]], tuple[int, ...]] = {
    dense: (8,),
    convolutional: (2, 7, 7),
    normalised: (2, 7, 7),
    with_block: (8,),
    with_shared_modules: (8,),
}
NETWORKS = {make.__name__: make for make in SHAPES}
TRAINABLE = [
    (rule, network)
    for rule in RULES
    for network in NETWORKS
    if not (rule.startswith("pepita") and network not in ("dense", "convolutional"))
    and not (rule == "ifa" and network not in ("dense", "with_shared_modules"))
]

OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd, weight decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    "sgd, momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd, both": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "sgd, nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "sgd, dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "sgd, ascent": lambda p: torch.optim.SGD(p, lr=0.1, maximize=True),
    "sgd, groups": lambda p: torch.optim.SGD(
        [{"params": p[:1], "momentum": 0.0}, {"params": p[1:3], "weight_decay": 0.1}, {"params": p[3:], "lr": 0.01}],
        lr=0.1,
        momentum=0.9,
    ),
    "sgd, some parameters": lambda p: torch.optim.SGD(p[1:-1], lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}
MOMENTUM = OPTIMIZERS["sgd, both"]


def network(name: str, rule: str = "dfa", dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(*NETWORKS[name](), rule=copy.copy(RULES[rule]), input_shape=SHAPES[NETWORKS[name]]).to(dtype)


def batches(name: str, count: int = 7, seed: int = 1) -> list[Batch]:
    """Enough for replays of recorded steps. The last one is smaller."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [6] * (count - 1) + [4]
    return [
        (
            torch.rand(n, *SHAPES[NETWORKS[name]], dtype=torch.float64, generator=generator),
            torch.randint(CLASSES, (n,), generator=generator),
        )
        for n in sizes
    ]


def loop(net: nn.Sequential, optimizer: Optimizer, data: list[Batch], first: int = 0) -> list[Tensor]:
    """The plain loop; returns the losses."""
    losses, dtype = [], next(net.parameters()).dtype
    for i, (x, y) in enumerate(data, first):
        torch.manual_seed(i)  # of dropout
        losses.append(F.cross_entropy(net(x.to(dtype), y), y))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    return [loss.detach() for loss in losses]


def steps(net: nn.Sequential, optimizer: Optimizer, data: list[Batch], first: int = 0) -> list[Tensor]:
    step = TrainStep(net, loss="cross_entropy", optimizer=optimizer)
    losses, dtype = [], next(net.parameters()).dtype
    for i, (x, y) in enumerate(data, first):
        torch.manual_seed(i)
        losses.append(step.step(x.to(dtype), y))
    return losses


def states(net: nn.Sequential, optimizer: Optimizer) -> Iterator[Tensor]:
    """Parameters, running statistics, and all that the optimizer has of each parameter."""
    yield from net.state_dict().values()
    for parameter in net.parameters():
        state = optimizer.state.get(parameter, {})
        yield from (torch.as_tensor(state[name]) for name in sorted(state) if state[name] is not None)


def assert_same(
    found: tuple[nn.Sequential, Optimizer], expected: tuple[nn.Sequential, Optimizer], **tolerance: float
) -> None:
    tolerance = tolerance or {"rtol": 1e-9, "atol": 1e-12}
    for value, expected_value in zip(states(*found), states(*expected), strict=True):
        torch.testing.assert_close(value, expected_value, **tolerance)  # type: ignore[arg-type]


def twins(net: nn.Sequential, make: MakeOptimizer) -> tuple[tuple[nn.Sequential, Optimizer], ...]:
    """The network and a copy of it, each with its optimizer."""
    other = copy.deepcopy(net)
    return (net, make(list(net.parameters()))), (other, make(list(other.parameters())))
