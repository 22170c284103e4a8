"""Plots, as PNG or SVG images in bytes. matplotlib is imported only where one is drawn.

Every function takes a title, which may be empty, and a format, "png" or "svg".

Raises:
    MissingPackageError: matplotlib is not installed.
    ValueError: another format.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fastalign.analysis.distributions import WeightDistribution, fit_distributions, normal_density, student_density
from fastalign.analysis.slowness import FITTED_EPOCHS, fit_plateau
from fastalign.errors import import_optional

if TYPE_CHECKING:
    from fastalign.analysis.metrics import Metrics

FORMATS = ("png", "svg")
# Okabe and Ito's colours: told apart by readers with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
LINES, MARKERS = ("-", "--", "-."), "o^D"
ERROR_TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)
# What the observations of `fastalign train --observe` are called on an axis.
OBSERVED = {
    "alignment_angle": "angle between weights and fixed matrix (°)",
    "gradient_angle": "angle between update and gradient (°)",
    "weight_norm": "Frobenius norm of the weights",
}
LARGEST = 1e300
"""What an axis can hold: with a margin around larger values its limits are infinite."""
WIDTH, HEIGHT = 6.4, 4.2
PANEL = 3.8


def learning_curves(curves: Mapping[str, Sequence[Metrics]], title: str, format: str = "png") -> bytes:
    """Training and test error over the epochs, one colour for each run; the error's axis is linear below 1 %.

    curves: by the run's label, the metrics of its epochs; an empty label where there is one run only.
    """
    figure, (axes,) = _panels(1)
    for number, (label, epochs) in enumerate(curves.items()):
        numbers = [metrics.epoch for metrics in epochs]
        test = _style(number, len(epochs)) | {"linestyle": "-"}
        training = test | {"linestyle": "--", "markerfacecolor": "white"}
        axes.plot(numbers, [metrics.test_error for metrics in epochs], label=f"{label} test".strip(), **test)
        axes.plot(numbers, [metrics.train_error for metrics in epochs], label=f"{label} training".strip(), **training)
    axes.set_title(title)
    axes.set_ylabel("error (%)")
    _of_errors(axes, max((max(m.train_error, m.test_error) for epochs in curves.values() for m in epochs), default=0))
    _over_epochs(axes)
    if len(curves) <= 3:
        axes.legend(frameon=False, ncols=max(1, len(curves)))
    else:
        figure.legend(frameon=False, ncols=4, fontsize=8, loc="outside lower center")
    return as_image(figure, format)


@dataclass(frozen=True)
class Comparison:
    """Runs over their epochs: by label, the quantity of each run after every epoch.

    levels: known values by label. quantity: what it is, with its unit; an error in percent has an axis that is linear
    below 1 %. reference: a value to draw across in black. event: by what happened, the epochs after which it did.
    """

    runs: Mapping[str, Sequence[Sequence[float]]]
    levels: Mapping[str, float] = field(default_factory=dict)
    quantity: str = "test error (%)"
    reference: float | None = None
    events: Mapping[str, float] = field(default_factory=dict)


def comparisons(
    panels: Mapping[str, Comparison], level: str, title: str, format: str = "png", columns: int = 3
) -> bytes:
    """Means over the epochs, with a band of one standard deviation: a panel for each title.

    Levels are drawn across in the colour of their label's runs. level: what they are, for the legend.
    """
    figure, all_axes = _panels(len(panels), columns=columns)
    labels = list(dict.fromkeys(label for panel in panels.values() for label in (*panel.runs, *panel.levels)))
    for (name, panel), axes in zip(panels.items(), all_axes, strict=True):
        _compare(axes, panel, labels)
        axes.set_title(name if name != panel.quantity else "")
    _entitle(figure, title)
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=label, **_style(number)) for number, label in enumerate(labels)]
    if any(panel.levels for panel in panels.values()):
        handles.append(Line2D([], [], color="0.3", linestyle=":", label=level))
    widest = max(len(str(handle.get_label())) for handle in handles)
    ncols = max(1, min(3, int(11 * figure.get_figwidth() / (widest + 8))))
    figure.set_figheight(figure.get_figheight() + 0.22 * (-(-len(handles) // ncols) - 1))
    figure.legend(handles=handles, frameon=False, ncols=ncols, loc="outside lower center")
    return as_image(figure, format)


def _compare(axes: Any, panel: Comparison, labels: Sequence[str]) -> None:
    largest = max(panel.levels.values(), default=0.0)
    for label, runs in panel.runs.items():
        # Runs may have come to different epochs: a mean is of those that have.
        values = [[run[epoch] for run in runs if epoch < len(run)] for epoch in range(max(map(len, runs), default=0))]
        means, spreads = _means_and_deviations(values)
        epochs = range(1, len(means) + 1)
        style = _style(labels.index(label), len(means))
        axes.plot(epochs, means, **style)
        axes.fill_between(epochs, means - spreads, means + spreads, color=style["color"], alpha=0.2, linewidth=0)
        largest = max([largest, *means])
    for label, value in panel.levels.items():
        axes.axhline(value, color=_style(labels.index(label))["color"], linestyle=":")
    if panel.reference is not None:
        axes.axhline(panel.reference, color="black", linestyle=":", linewidth=1)
    axes.set_ylabel(panel.quantity)
    if "error" in panel.quantity:
        _of_errors(axes, largest)
    longest = max((len(run) for runs in panel.runs.values() for run in runs), default=0)
    for event, epoch in panel.events.items():
        if epoch > longest:
            continue
        axes.axvline(epoch, color="0.5", linestyle="--", linewidth=1)
        axes.text(epoch, 1.0, f" {event}", transform=axes.get_xaxis_transform(), va="top", fontsize=8, color="0.3")
    _over_epochs(axes)


@dataclass(frozen=True)
class Dependence:
    """By label, the values of all runs at each value of what is varied; and levels of runs without it, by label."""

    values: Mapping[str, Mapping[float, Sequence[float]]]
    levels: Mapping[str, float] = field(default_factory=dict)
    logarithmic: bool = False


def dependences(panels: Mapping[str, Dependence], varied: str, quantity: str, title: str, format: str = "png") -> bytes:
    """Means, with bars of one standard deviation, by what is varied: a panel for each title.

    varied, quantity: what the axes are, with their units.
    """
    figure, all_axes = _panels(len(panels), share_y=True)
    for (name, panel), axes in zip(panels.items(), all_axes, strict=True):
        for number, (label, values) in enumerate(panel.values.items()):
            at = sorted(values)
            means, deviations = _means_and_deviations([values[x] for x in at])
            colour, marker = COLOURS[number % len(COLOURS)], "os^Dv"[number % 5]
            axes.errorbar(at, means, deviations, color=colour, marker=marker, markersize=5, capsize=3, label=label)
        for number, (label, value) in enumerate(panel.levels.items(), start=len(panel.values)):
            axes.axhline(value, color=COLOURS[number % len(COLOURS)], linestyle="--", label=label)
        places = sorted({x for values in panel.values.values() for x in values})
        if not panel.logarithmic:
            axes.set_xticks(places)
        elif places:  # of levels alone there is no scale
            axes.set_xscale("log")
        axes.set_title(name)
        axes.set_xlabel(varied)
        axes.set_ylabel(quantity)
        _plainly(axes)
    all_axes[0].legend(frameon=False)
    _entitle(figure, title)
    return as_image(figure, format)


def _means_and_deviations(values: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Of the runs at each place; no deviation of one run."""
    means = np.array([np.mean(runs) for runs in values])
    return means, np.array([np.std(runs, ddof=1) if len(runs) > 1 else 0.0 for runs in values])


def observations(curves: Mapping[str, Sequence[Metrics]], name: str, title: str, format: str = "png") -> bytes:
    """One of `Metrics.observations` over the epochs: a panel for each run, a line for each layer; angles beside 90°.

    curves: by the run's label, the metrics of its epochs.
    """
    curves = {label: [m for m in epochs if m.observations.get(name)] for label, epochs in curves.items()}
    curves = {label: epochs for label, epochs in curves.items() if epochs}
    layers = sorted({layer for epochs in curves.values() for m in epochs for layer in m.observations[name]})
    figure, panels = _panels(max(len(curves), 1), share_y=True)
    colours = _colours_of_layers(layers)
    for (label, epochs), axes in zip(curves.items(), panels, strict=False):
        for layer in layers:
            points = [
                (m.epoch, _drawable(m.observations[name][layer])) for m in epochs if layer in m.observations[name]
            ]
            if points:
                marker = "o" if len(points) <= 40 and len(layers) <= len(COLOURS) else None
                axes.plot(*zip(*points, strict=True), color=colours[layer], marker=marker, markersize=4)
        axes.set_title(label)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(OBSERVED.get(name, name))
        if name.endswith("angle"):
            axes.axhline(90, color="black", linestyle=":", linewidth=1)
        _over_epochs(axes)
    from matplotlib.lines import Line2D

    # Of a hundred layers the first and the last few tell which colour is which.
    named = layers if len(layers) <= 8 else [*layers[:2], layers[len(layers) // 2], *layers[-2:]]
    handles = [Line2D([], [], color=colours[layer], label=_layer(layer)) for layer in named]
    figure.legend(handles=handles, frameon=False, ncols=min(len(named), 5), loc="outside lower center")
    _entitle(figure, title)
    return as_image(figure, format)


def _drawable(value: float) -> float:
    return value if abs(value) <= LARGEST else math.nan


def plateaus(accuracies: Mapping[str, Sequence[float]], title: str, format: str = "png") -> bytes:
    """Test accuracy over the epochs with the fitted plateau of each run, and its slowness in the legend.

    accuracies: by the run's label, after epochs 1, 2, …, in percent.

    Raises:
        ValueError: as `fit_plateau`.
    """
    figure, (axes,) = _panels(1)
    from matplotlib.lines import Line2D

    handles = []
    for number, (label, run) in enumerate(accuracies.items()):
        style = _style(number)
        fit = fit_plateau(run)
        epochs = np.arange(1, len(run[:FITTED_EPOCHS]) + 1)
        axes.plot(epochs, run[:FITTED_EPOCHS], **style | {"linestyle": ""})
        fine = np.linspace(1, len(epochs), 400)
        axes.plot(fine, fit.highest * fine / (fit.slowness + fine), **style | {"marker": None})
        handles.append(Line2D([], [], label=f"{label}: slowness {fit.slowness:.3g} epochs", **style))
    _entitle(figure, title)
    axes.set_ylabel("test accuracy (%)")
    _over_epochs(axes)
    figure.legend(handles=handles, frameon=False, ncols=2, fontsize=8, loc="outside lower center")
    return as_image(figure, format)


def weight_distributions(weights: Mapping[str, Tensor], title: str, format: str = "png", columns: int = 3) -> bytes:
    """The density of weights on a logarithmic axis, with the fitted normal and Student's t: a panel for each matrix.

    weights: by label.

    Raises:
        ValueError: as `fit_distributions`.
    """
    figure, panels = _panels(len(weights), columns=columns)
    for (label, matrix), axes in zip(weights.items(), panels, strict=True):
        _draw_distribution(axes, matrix, fit_distributions(matrix))
        axes.set_title(label)
    panels[0].legend(frameon=False, loc="upper right", fontsize=7)
    _entitle(figure, title)
    return as_image(figure, format)


def embeddings(
    points: Mapping[str, Tensor], labels: Tensor, title: str, format: str = "png", columns: int = 3
) -> bytes:
    """Points of samples in the plane, each as the number of its class: a panel for each layer.

    points: by the layer's label, (N, 2), as `tsne` gives them. labels: (N,) class indices.
    """
    figure, panels = _panels(len(points), columns=columns)
    classes = labels.unique().tolist()
    for (label, plane), axes in zip(points.items(), panels, strict=True):
        for number in classes:
            chosen = plane[labels == number].cpu()
            colour = COLOURS[number % len(COLOURS)]
            axes.scatter(chosen[:, 0], chosen[:, 1], s=22, marker=f"${number}$", color=colour, linewidths=0.2)
        axes.set_title(label)
        axes.set_xlabel("t-SNE 1 (no unit)")
        axes.set_ylabel("t-SNE 2 (no unit)")
        axes.set_xticks([])
        axes.set_yticks([])
    _entitle(figure, title)
    return as_image(figure, format)


def _draw_distribution(axes: Any, matrix: Tensor, fit: WeightDistribution) -> None:
    values = matrix.detach().cpu().double().flatten().numpy()
    density, edges = np.histogram(values, bins=120, density=True)
    axes.stairs(density, edges, fill=True, color="#BBBBBB", label=f"{fit.count:,} weights")
    x = np.linspace(edges[0], edges[-1], 400)
    axes.plot(x, normal_density(x, fit), color=COLOURS[0], label="normal")
    axes.plot(x, student_density(x, fit), color=COLOURS[1], linestyle="--", label="Student's t")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.3 * density[density > 0].min(), top=10 * density.max())
    axes.set_xlabel("weight")
    axes.set_ylabel("density")
    degrees = "> 1000" if fit.degrees_of_freedom > 1000 else f"= {fit.degrees_of_freedom:.3g}"
    normal, student = fit.normal_log_likelihood, fit.student_log_likelihood
    text = f"log-likelihood per weight\nnormal {normal:.4f}\nStudent's t {student:.4f}, ν {degrees}"
    axes.text(0.02, 0.98, text, transform=axes.transAxes, va="top", fontsize=7)


def _style(number: int, points: int = 1) -> dict[str, Any]:
    """How the line of the label of this number is drawn: every eighth has its colour, with other dashes and marker."""
    again, colour = divmod(number, len(COLOURS))
    few = points <= 40
    return {
        "color": COLOURS[colour],
        "linestyle": LINES[again % len(LINES)],
        "marker": MARKERS[again % len(MARKERS)] if few or again else None,
        "markersize": 4,
        "markevery": 1 if few else points // 12,
    }


def _colours_of_layers(layers: Sequence[int]) -> dict[int, Any]:
    """Distinct colours of a few layers; of many, from dark blue (the first) to yellow (the last)."""
    if len(layers) <= len(COLOURS):
        return dict(zip(layers, COLOURS, strict=False))
    from matplotlib import colormaps

    return {layer: colormaps["cividis"](i / (len(layers) - 1)) for i, layer in enumerate(layers)}


def _layer(number: int) -> str:
    return f"layer {number}" if number else "whole network"


def _panels(count: int, share_y: bool = False, columns: int = 3) -> tuple[Any, list[Any]]:
    """A figure of so many panels, up to `columns` in a row, and their axes."""
    import_optional("matplotlib", "the plot")
    from matplotlib.figure import Figure

    columns = min(count, columns)
    rows = -(-count // columns)
    size = (WIDTH, HEIGHT) if count == 1 else (PANEL * columns, PANEL * rows)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=share_y).flat)
    for unused in panels[count:]:
        unused.set_visible(False)
    return figure, panels[:count]


def _entitle(figure: Any, title: str) -> None:
    """The title in as many lines as the width asks for."""
    figure.suptitle(textwrap.fill(title, int(10 * figure.get_figwidth())))


def _of_errors(axes: Any, largest: float) -> None:
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    axes.set_yscale("symlog", linthresh=1, linscale=0.5)
    axes.set_yticks(ERROR_TICKS, minor=False)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylim(bottom=0, top=1.1 * (largest if largest > 1 else 1))  # it may be NaN


def _over_epochs(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # else one epoch has fractions
    _plainly(axes)


def _plainly(axes: Any) -> None:
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def as_image(figure: Any, format: str) -> bytes:
    """A figure as an image; the same drawing gives the same bytes."""
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    from matplotlib import rc_context
    from matplotlib.axis import Axis
    from matplotlib.text import Text

    ticks = {text for axis in figure.findobj(Axis) for text in axis.findobj(Text)}
    for text in figure.findobj(Text):
        if text not in ticks:
            text.set_parse_math(False)  # Names of folders and experiments may hold dollar signs.
    image = io.BytesIO()
    with rc_context({"svg.hashsalt": "fastalign"}):
        figure.savefig(image, format=format, metadata={"Date": None} if format == "svg" else None)
    return image.getvalue()
