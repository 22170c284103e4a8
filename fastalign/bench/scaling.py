"""`fastalign bench scaling`: time and memory of a step against depth, width, batch and classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from fastalign.bench.measure import measure
from fastalign.bench.memory import peaks, ways_to_step
from fastalign.bench.plan import Network, Plan
from fastalign.bench.steps import BP, Steps, make

RULES = ("bp", "dfa", "drtp", "pepita")


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """A row for each point of an axis and number of threads; memory once, it is the same on any number."""
    threads_before = torch.get_num_threads()
    for axis, values in plan.axes:
        for value in values:
            network = with_value(plan.middle, axis, value)
            for threads in sorted({1, plan.threads}):
                torch.set_num_threads(threads)
                yield _row(network, axis, value, threads, plan)
    torch.set_num_threads(threads_before)


def with_value(network: Network, axis: str, value: int) -> Network:
    """The network with another depth, width, batch or number of classes."""
    match axis:
        case "depth":
            return replace(network, hidden=network.hidden[:1] * value)
        case "width":
            return replace(network, hidden=(value,) * len(network.hidden))
        case "batch":
            return replace(network, samples=value)
        case "classes":
            return replace(network, classes=value)
    raise ValueError(f"axis: expected depth, width, batch or classes, got {axis!r}")


def _row(network: Network, axis: str, value: int, threads: int, plan: Plan) -> dict[str, Any]:
    steps = Steps(network, plan.device)
    variants = {BP: steps.loop(make(network, None, plan.device))}
    variants |= {f"{rule}, fastalign step": steps.train_step(rule) for rule in RULES}
    row = {
        "group": "scaling",
        "op": axis,
        "shape": str(value),
        "dtype": "float32",
        "threads": threads,
        "times": measure(variants, plan.device, plan.step_seconds / 20, plan.rounds),
    }
    if threads == 1 and plan.counts_memory:
        of_rules = {rule: peaks(ways_to_step(network, rule, plan.device), plan.device) for rule in RULES}
        row["peak_bytes"] = {f"{rule}, {way}": size for rule, ways in of_rules.items() for way, size in ways.items()}
    return row
