"""The demonstration: three rules side by side on the built-in digits, a table and a plot."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import torch

from fastalign import data
from fastalign.analysis.plots import learning_curves
from fastalign.errors import RunError, import_optional
from fastalign.experiments.digits import MLP
from fastalign.training.atomic import write_atomically
from fastalign.training.loop import Trainer
from fastalign.training.metrics import Metrics

RULES = ("bp", "dfa", "pepita")
EPOCHS = 30


def demo(out: Path) -> None:
    """Train digits/mlp with BP, DFA and PEPITA, print a table, and draw the learning curves.

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
        curves = _compare(splits)
    finally:
        torch.set_num_threads(threads)
    image = out / "curves.png"
    write_atomically(image, learning_curves(curves, f"{MLP.name}: learning with and without backpropagation"))
    print(f"\nlearning curves: {image}")


def _compare(splits: data.Splits) -> dict[str, list[Metrics]]:
    """Train with each rule, print its row of the table, and return the epochs' metrics by rule."""
    print(f"{MLP.name}: {EPOCHS} epochs of {len(splits.train)} digits on one thread, {len(splits.test)} to test\n")
    print(f"{'rule':<8}{'test error':>12}{'per step':>12}", flush=True)
    curves: dict[str, list[Metrics]] = {}
    for rule in RULES:
        trainer = Trainer(MLP, rule, splits)
        curves[rule.upper()] = history = [_epoch(trainer) for _ in range(EPOCHS)]
        steps_per_epoch = -(-len(splits.train) // trainer.batch_size)
        microseconds = 1e6 * median(metrics.seconds for metrics in history) / steps_per_epoch
        print(f"{rule.upper():<8}{history[-1].test_error:>10.2f} %{microseconds:>9.0f} µs", flush=True)
    return curves


def _epoch(trainer: Trainer) -> Metrics:
    metrics = trainer.train_epoch()
    assert metrics is not None
    return metrics
