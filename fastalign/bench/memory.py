"""`fastalign bench memory`: what a step holds at most, beyond parameters, momentum and the batch, and its time.

torch's loop makes its gradients once and zeroes them (`set_to_none=False`), so that they are not counted either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastalign.bench.measure import Run, measure, peak_memory
from fastalign.bench.plan import Network, Plan
from fastalign.bench.steps import BP, Steps, make

RULES = ("bp", "dfa", "drtp", "pepita")
WIDTH, SAMPLES = 256, 256


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """A row for each depth and rule: bytes, those of two layers' activations, and times."""
    for depth in plan.depths:
        network = Network(f"{WIDTH}-{WIDTH}^{depth}-10", (WIDTH,), (WIDTH,) * depth, samples=SAMPLES)
        for rule in RULES:
            ways = ways_to_step(network, rule, plan.device)
            yield {
                "group": "memory",
                "op": rule,
                "shape": f"{depth} layers of {WIDTH}, batch {SAMPLES}",
                "dtype": "float32",
                "two_layers": 2 * WIDTH * SAMPLES * 4,
                "depth": depth,
                "peak_bytes": peaks(ways, plan.device),
                "times": measure(ways, plan.device, plan.step_seconds / 10, plan.rounds),
            }


def peaks(ways: Mapping[str, Run], device: str) -> dict[str, int]:
    """The peak of each."""
    return {way: peak_memory(run, device) for way, run in ways.items()}


def ways_to_step(network: Network, rule: str, device: str) -> dict[str, Run]:
    """Each way to take a step of a rule, as far as it has a momentum and a recording; of BP, which cannot recompute,
    also torch's own.
    """
    steps = Steps(network, device)
    ways: dict[str, Run] = {"store": steps.train_step(rule)}
    if rule == "bp":
        ways[BP] = steps.loop(make(network, None, device), keeps_gradients=True)
    else:
        ways["recompute"] = steps.train_step(rule, memory="recompute")
    for run in ways.values():
        for _ in range(3):
            run()
    return ways
