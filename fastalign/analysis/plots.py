"""Plots, as PNG images in bytes. matplotlib is imported only where one is drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fastalign.errors import import_optional

if TYPE_CHECKING:
    from fastalign.training.metrics import Metrics

# Okabe and Ito's colours: told apart by readers with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
ERROR_TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)


def learning_curves(curves: Mapping[str, Sequence[Metrics]], title: str) -> bytes:
    """Training and test error over the epochs, one colour for each run; the error's axis is linear below 1 %.

    curves: by the run's label, the metrics of its epochs; an empty label where there is one run only.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    import_optional("matplotlib", "the plot")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for number, (label, epochs) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        numbers = [metrics.epoch for metrics in epochs]
        few = len(epochs) <= 40
        axes.plot(
            numbers,
            [metrics.test_error for metrics in epochs],
            color=colour,
            marker="o" if few else None,
            markersize=4,
            label=f"{label} test".strip(),
        )
        axes.plot(
            numbers,
            [metrics.train_error for metrics in epochs],
            color=colour,
            linestyle="--",
            marker="s" if few else None,
            markersize=3,
            markerfacecolor="white",
            label=f"{label} training".strip(),
        )
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.set_ylabel("error (%)")
    axes.set_yscale("symlog", linthresh=1, linscale=0.5)
    axes.set_yticks(ERROR_TICKS, minor=False)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylim(bottom=0, top=1.1 * max(_largest(curves), 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, ncols=max(1, len(curves)) if len(curves) <= 3 else 2)

    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _largest(curves: Mapping[str, Sequence[Metrics]]) -> float:
    return max((max(m.train_error, m.test_error) for epochs in curves.values() for m in epochs), default=0)
