"""`fastalign bench steps`: a training step of every rule, against plain PyTorch, BP by torch, and torch.compile."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign.nn as nn
from fastalign.bench.floor import passes, products
from fastalign.bench.measure import Run, measure, name_of
from fastalign.bench.plain import LEARNING_RATE, MOMENTUM, Convolutional, Dense, Step
from fastalign.bench.plan import Network, Plan
from fastalign.step.train_step import TrainStep

RULES = ("bp", "fa", "dfa", "drtp", "pepita")
BATCHES = 8
BP, COMPILED_BP = "BP by torch", "BP by torch.compile"
FLOOR_WITH_PASSES = "floor with activations and loss"


def make(network: Network, rule: str | None, device: str = "cpu") -> torch.nn.Module:
    """The network of torch (rule None) or of fastalign."""
    module: Any = torch.nn if rule is None else nn
    settings = {} if rule is None else {"rule": rule, "input_shape": network.inputs}
    activation = {"tanh": module.Tanh, "relu": module.ReLU}[network.activation]
    layers: list[torch.nn.Module] = []
    if network.is_convolutional:
        (filters,), (channels, height, width) = network.hidden, network.inputs
        pooled = filters * ((height - 4) // 2) * ((width - 4) // 2)
        layers = [module.Conv2d(channels, filters, 5, bias=network.bias), activation(), module.MaxPool2d(2)]
        layers += [module.Flatten(), module.Linear(pooled, network.classes, network.bias)]
    else:
        sizes = (*network.inputs, *network.hidden)
        for inputs, units in pairwise(sizes):
            layers += [module.Linear(inputs, units, network.bias), activation()]
        layers.append(module.Linear(sizes[-1], network.classes, network.bias))
    made: torch.nn.Module = module.Sequential(*layers, **settings)
    return made.to(device, network.dtype)


def batches(network: Network, device: str) -> list[tuple[Tensor, Tensor]]:
    """A few batches of random numbers."""
    return [
        (
            torch.rand(network.samples, *network.inputs, device=device).to(network.dtype),
            torch.randint(network.classes, (network.samples,), device=device),
        )
        for _ in range(BATCHES)
    ]


class Steps:
    """The steps of a network as things to run, each on the next of a few batches."""

    def __init__(self, network: Network, device: str) -> None:
        self.network, self.device, self.batches = network, device, batches(network, device)

    def over_batches(self, step: Step) -> Run:
        at = 0

        def run() -> object:
            nonlocal at
            at = (at + 1) % BATCHES
            return step(*self.batches[at])

        return run

    def loop(
        self,
        net: torch.nn.Module,
        needs_target: bool = False,
        compiled: bool = False,
        keeps_gradients: bool = False,
    ) -> Run:
        """The ordinary training loop, with torch's fused SGD."""
        # NOTE: on a CPU that leaves most halves as they are (torch 2.13), and the one for many parameters serves.
        fused = self.network.dtype == torch.float32
        optimizer = torch.optim.SGD(
            net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, fused=fused, foreach=not fused
        )

        def loss_of(x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(net(x, y) if needs_target else net(x), y)

        run = torch.compile(loss_of, dynamic=False) if compiled else loss_of

        def step(x: Tensor, y: Tensor) -> Tensor:
            loss = run(x, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=not keeps_gradients)
            return loss

        return self.over_batches(step)

    def train_step(self, rule: str, **how: Any) -> Run:
        """fastalign.TrainStep."""
        net: Any = make(self.network, rule, self.device)
        optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
        return self.over_batches(TrainStep(net, loss="cross_entropy", optimizer=optimizer, **how).step)

    def fastalign_loop(self, rule: str) -> Run:
        return self.loop(make(self.network, rule, self.device), needs_target=rule == "drtp")

    def plain(self, rule: str) -> dict[str, Step]:
        """The forms of a rule's plain step."""
        net: Any = make(self.network, rule, self.device)
        plain = Convolutional if self.network.is_convolutional else Dense
        return plain(net, self.network.samples).forms(rule)

    def floor(self, rule: str) -> Run:
        """See `fastalign.bench.floor.products`."""
        return products(make(self.network, None, self.device), self.batches[0][0], rule)

    def floor_with_passes(self, rule: str) -> Run:
        """The floor, then `fastalign.bench.floor.passes`."""
        net: Any = make(self.network, rule, self.device)
        calls = [self.floor(rule), *(call for _, call in passes(net, *self.batches[0], rule))]

        @torch.no_grad()
        def run() -> None:
            for call in calls:
                call()

        return run


def operations(network: Network, rule: str) -> int:
    """Those of a step's products, the same as in its floor."""
    if network.is_convolutional:
        (filters,), (channels, height, width) = network.hidden, network.inputs
        outputs = filters * (height - 4) * (width - 4)
        products = [outputs * channels * 25, outputs // 4 * network.classes]
    else:
        products = [a * b for a, b in pairwise((*network.inputs, *network.hidden, network.classes))]
    again = {"bp": products[1:], "fa": products[1:], "pepita": products[1:-1]}.get(rule, [])
    return 2 * network.samples * (2 * sum(products) + sum(again))


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """A row for each network and rule. The variants of all rules take turns, so that they can be compared."""
    for network in plan.networks:
        torch._dynamo.reset()
        steps, variants = Steps(network, plan.device), {}
        variants[BP] = steps.loop(make(network, None, plan.device))
        if plan.compiles:
            variants[COMPILED_BP] = steps.loop(make(network, None, plan.device), compiled=True)
        for rule in RULES:
            for name, run in _of_rule(steps, rule, plan).items():
                variants[f"{rule}: {name}"] = run
        times = measure(variants, plan.device, plan.step_seconds, plan.rounds)
        for rule in RULES:
            prefix = f"{rule}: "
            of_rule = {name.removeprefix(prefix): found for name, found in times.items() if name.startswith(prefix)}
            shared = {name: times[name] for name in (BP, COMPILED_BP) if name in times}
            yield {
                "group": "steps",
                "op": rule,
                "shape": f"{network.name}, batch {network.samples}",
                "dtype": name_of(network.dtype),
                "operations": operations(network, rule),
                "times": {**of_rule, **shared},
            }


def _of_rule(steps: Steps, rule: str, plan: Plan) -> dict[str, Run]:
    found = {
        "fastalign step": steps.train_step(rule),
        "fastalign loop": steps.fastalign_loop(rule),
        "floor": steps.floor(rule),
    }
    if not steps.network.is_convolutional:
        found[FLOOR_WITH_PASSES] = steps.floor_with_passes(rule)
    forms = steps.plain(rule)
    for form, step in forms.items():
        found[f"plain PyTorch, {form}"] = steps.over_batches(step)
    if plan.compiles and len(steps.network.hidden) <= plan.most_compiled_layers:
        first = next(iter(steps.plain(rule).values()))
        found["torch.compile of plain"] = steps.over_batches(torch.compile(first, dynamic=False))
    return found
