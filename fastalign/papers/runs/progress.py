"""What a run shows while it trains: a progress bar on a terminal, a plain line for each epoch elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from fastalign.papers.runs.metrics import Metrics

WAITS = "waiting for a benchmark"


class Progress:
    """Told what happens in a run; this one shows nothing."""

    def start(self, epochs: int, samples: int, done: int) -> None:
        """A run of so many epochs of so many samples begins; `done` samples are trained on already."""

    def advance(self, samples: int) -> None:
        """A batch of so many samples is done."""

    def epoch(self, metrics: Metrics, label: str = "") -> None:
        """An epoch is done, of the run that the label names where there are several."""

    def waits(self) -> None:
        """The run waits between two epochs, since a benchmark measures."""

    def close(self) -> None:
        """The run ends, or is interrupted."""


class PlainLines(Progress):
    """A line for each epoch."""

    def __init__(self) -> None:
        self._epochs = 0

    def start(self, epochs: int, samples: int, done: int) -> None:
        """Note how many epochs there are."""
        self._epochs = epochs

    def epoch(self, metrics: Metrics, label: str = "") -> None:
        """Print the epoch's line."""
        print(line(metrics, self._epochs, label), flush=True)

    def waits(self) -> None:
        """Print why."""
        print(WAITS, flush=True)


class Bar(PlainLines):
    """A bar over the whole run with samples per second and the time left, and above it a line for each epoch."""

    def __init__(self, tqdm: Any) -> None:
        super().__init__()
        self._tqdm = tqdm
        self._bar: Any = None

    def start(self, epochs: int, samples: int, done: int) -> None:
        """Show the bar."""
        super().start(epochs, samples, done)
        self._bar = self._tqdm(
            total=epochs * samples,
            initial=done,
            unit=" samples",
            unit_scale=True,
            dynamic_ncols=True,
            leave=False,
        )

    def advance(self, samples: int) -> None:
        """Move the bar."""
        self._bar.update(samples)

    def epoch(self, metrics: Metrics, label: str = "") -> None:
        """Print the epoch's line above the bar."""
        self._tqdm.write(line(metrics, self._epochs, label))

    def waits(self) -> None:
        """Print why, above the bar."""
        self._tqdm.write(WAITS)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()


def line(metrics: Metrics, epochs: int, label: str = "") -> str:
    """An epoch's metrics in words."""
    which = f"{label}  " if label else ""
    return (
        f"{which}epoch {metrics.epoch:{len(str(epochs))}}/{epochs}  train loss {metrics.train_loss:.4f}  "
        f"train error {metrics.train_error:5.2f} %  test error {metrics.test_error:5.2f} %  "
        f"{metrics.seconds:.2f} s  lr {metrics.lr:g}"
    )


def progress_for_terminal() -> Progress:
    """The bar where standard error is a terminal and tqdm is installed, else plain lines."""
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            return PlainLines()
        return Bar(tqdm)
    return PlainLines()
