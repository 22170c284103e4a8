"""The demonstration: three rules side by side on the built-in digits, beside plain PyTorch; a table and a plot."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from fastalign.analysis.plots import learning_curves
from fastalign.bench.atomic import write_atomically
from fastalign.bench.loops import DenseLoop
from fastalign.bench.measure import Run, measure
from fastalign.bench.plan import Network
from fastalign.bench.steps import Steps, make
from fastalign.errors import RunError, import_optional
from fastalign.papers import data
from fastalign.papers.experiments.digits import MLP
from fastalign.papers.runs.loop import Trainer
from fastalign.papers.runs.metrics import Metrics
from fastalign.tables import Table

RULES = ("bp", "dfa", "pepita")
EPOCHS = 30
SECONDS = 4.0
"""For the measurement of all steps."""


class Times(NamedTuple):
    """Microseconds of a rule's step: by fastalign, by the usual loop of PyTorch, and by the best plain PyTorch."""

    fastalign: float
    loop: float
    best: float


def demo(out: Path) -> None:
    """Train digits/mlp with BP, DFA and PEPITA, compare their steps with plain PyTorch, and draw the learning curves.

    Raises:
        UserError: an optional package is missing, or the folder cannot be written.
    """
    import_optional("matplotlib", "the demonstration")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"the folder {out} cannot be made: {error.strerror}") from error
    splits = data.load(MLP.dataset)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # A net this small is no faster on more, and much slower where other programs run.
    try:
        print(f"{MLP.name}: {EPOCHS} epochs of {len(splits.train)} digits on one thread, {len(splits.test)} to test")
        curves = {rule: _train(rule, splits) for rule in RULES}
        print("and each rule's step beside the same step in plain PyTorch, in turns\n", flush=True)
        times = _measure(splits)
    finally:
        torch.set_num_threads(threads)
    errors = {rule: history[-1].test_error for rule, history in curves.items()}
    print(_table(errors, times))
    image = out / "curves.png"
    title = f"{MLP.name}: learning with and without backpropagation"
    write_atomically(image, learning_curves({rule.upper(): history for rule, history in curves.items()}, title))
    print(f"\nlearning curves: {image}\n\n{_conclusion(errors, times)}")


def _train(rule: str, splits: data.Splits) -> list[Metrics]:
    """Train with a rule, and return the epochs' metrics."""
    trainer = Trainer(MLP, rule, splits)
    epochs = [trainer.train_epoch() for _ in range(EPOCHS)]
    return [metrics for metrics in epochs if metrics is not None]


def _measure(splits: data.Splits) -> dict[str, Times]:
    """Measure the steps of a network and a batch of the same shapes, all in turns."""
    inputs = splits.train.images[0].numel()
    steps = Steps(Network(MLP.name, (inputs,), MLP.architecture.hidden, samples=MLP.batch_size), "cpu")
    variants: dict[str, Run] = {}
    by_hand: dict[str, list[str]] = {}
    for rule in RULES:
        network: Any = make(steps.network, rule)
        variants[f"{rule}: fastalign"] = steps.train_step(rule)
        variants[f"{rule}: loop"] = steps.over_batches(DenseLoop(network).step(rule))
        forms = {f"{rule}: {form}": steps.over_batches(step) for form, step in steps.plain(rule).items()}
        by_hand[rule] = list(forms)
        variants |= forms
    found = {name: median(times) for name, times in measure(variants, "cpu", SECONDS, rounds=20).items()}
    return {
        rule: Times(found[f"{rule}: fastalign"], found[f"{rule}: loop"], min(found[form] for form in by_hand[rule]))
        for rule in RULES
    }


def _table(errors: Mapping[str, float], times: Mapping[str, Times]) -> str:
    title = f"A step of {MLP.batch_size} digits; factor: how many times as fast as plain PyTorch fastalign is"
    head = ("rule", "test error", "fastalign", "  PyTorch loop", "factor", "  best by hand", "factor")
    body: list[tuple[str, ...]] = [
        (
            rule.upper(),
            f"{errors[rule]:.2f} %",
            f"{found.fastalign:.0f} µs",
            f"{found.loop:.0f} µs",
            f"{found.loop / found.fastalign:.1f}",
            f"{found.best:.0f} µs",
            f"{found.best / found.fastalign:.1f}",
        )
        for rule, found in times.items()
    ]
    return Table(title, head, body, texts=1).for_terminal()


def _conclusion(errors: Mapping[str, float], times: Mapping[str, Times]) -> str:
    """Return what was seen, and what to type next."""
    without = [rule for rule in RULES if rule != "bp"]
    reached = " and ".join(f"{errors[rule]:.1f} %" for rule in without)
    loop = _range([found.loop / found.fastalign for found in times.values()])
    best = _range([found.best / found.fastalign for found in times.values()])
    return "\n".join(
        (
            f"{' and '.join(map(str.upper, without))} learn without backpropagation, to {reached} test error",
            f"beside BP's {errors['bp']:.1f} %, in steps {loop} times as fast as the usual loop",
            f"and {best} times as fast as the best by hand; to train a convolutional network type:",
            f"{python_to_type()} -m fastalign train digits/conv --rule dfa",
        )
    )


def _range(factors: list[float]) -> str:
    return f"{min(factors):.1f} to {max(factors):.1f}"


def python_to_type() -> str:
    """Return how to call this Python from here, whether or not its environment is the active one."""
    if shutil.which("python3") == sys.executable:
        return "python3"
    path = os.path.relpath(sys.executable)
    return sys.executable if path.startswith("..") else path
