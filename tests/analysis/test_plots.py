"""Every plot is drawn in both formats, and shows in words what it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
import torch

from fastalign.analysis import plots
from fastalign.papers.runs.metrics import Metrics


def history(layers: int, epochs: int = 5) -> list[Metrics]:
    def observed(epoch: int) -> dict[str, dict[int, float]]:
        angles = {layer: 90 - epoch - layer for layer in range(1, layers + 1)}
        return {"gradient_angle": {**angles, 1: math.nan if epoch == 1 else angles[1]}}

    return [Metrics(t, 1 / t, 10 / t, 12 / t, 0.1, 0.1, observed(t)) for t in range(1, epochs + 1)]


NORMAL = torch.randn(50, 50, generator=torch.Generator().manual_seed(0))
PLOTS: dict[str, tuple[Callable[[str], bytes], list[str]]] = {
    "learning curves": (
        lambda format: plots.learning_curves({"BP": history(1), "DFA": history(1, 50)}, "title", format),
        ["title", "epoch", "error (%)", "BP test", "DFA training"],
    ),
    "comparisons": (
        lambda format: plots.comparisons(
            {
                "one": plots.Comparison({"BP": [[9.0, 5.0], [8.0]], "DFA": [[]]}, {"BP": 1.6}),
                "two": plots.Comparison({}, {"FA": 120.0}),
            },
            "published",
            "title",
            format,
        ),
        ["title", "epoch", "test error (%)", "one", "two", "BP", "DFA", "FA", "published"],
    ),
    "observations": (
        lambda format: plots.observations({"BP": history(2), "DFA": history(3)}, "gradient_angle", "title", format),
        ["title", "epoch", "angle between update and gradient (°)", "BP", "DFA", "layer 1", "layer 3"],
    ),
    "of a hundred layers": (
        lambda format: plots.observations({"DFA": history(100)}, "gradient_angle", "title", format),
        ["layer 1", "layer 51", "layer 100"],
    ),
    "plateaus": (
        lambda format: plots.plateaus({"BP": [50.0, 60, 65], "FA": [40.0, 45, 50]}, "title", format),
        ["title", "epoch", "test accuracy (%)", "BP: slowness", "FA: slowness"],
    ),
    "weight distributions": (
        lambda format: plots.weight_distributions({"W1": NORMAL, "W2": NORMAL.abs()}, "title", format),
        [
            "title",
            "weight",
            "density",
            "W1",
            "W2",
            "normal",
            "Student's t",
            "2,500 weights",
            "log-likelihood per weight",
        ],
    ),
    "embeddings": (
        lambda format: plots.embeddings(
            {"input": NORMAL[:, :2], "layer 1": NORMAL[:, 2:4]}, torch.arange(50) % 10, "title", format
        ),
        ["title", "input", "layer 1", "t-SNE 1 (no unit)"],
    ),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_in_both_formats(name: str) -> None:
    draw, says = PLOTS[name]
    assert draw("png").startswith(b"\x89PNG")
    with mpl.rc_context({"svg.fonttype": "none"}):  # text as text
        svg = draw("svg")
    assert svg == draw_as_text(draw)
    text = "\n".join("".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if element.text)
    for words in says:
        assert words in text
    with pytest.raises(ValueError, match="format: expected one of png, svg, got 'gif'"):
        draw("gif")


def draw_as_text(draw: Callable[[str], bytes]) -> bytes:
    with mpl.rc_context({"svg.fonttype": "none"}):
        return draw("svg")


def test_a_dependence_of_levels_alone_is_drawn() -> None:
    panel = plots.Dependence({"x + α r": {}}, {"F = 0": 96.0}, logarithmic=True)
    assert b"F = 0" in plots.dependences({"": panel}, "α (no unit)", "test accuracy (%)", "title", "svg")


LABELS = [f"label {number}" for number in range(12)]
OF_MANY_LABELS: dict[str, Callable[[int], bytes]] = {
    "learning curves": lambda epochs: plots.learning_curves({label: history(1, epochs) for label in LABELS}, ""),
    "comparisons": lambda epochs: plots.comparisons(
        {"": plots.Comparison({label: [[5.0] * epochs] for label in LABELS})}, "", ""
    ),
    "plateaus": lambda epochs: plots.plateaus({label: [50.0] * epochs for label in LABELS}, ""),
}


@pytest.mark.parametrize("epochs", [5, 60])
@pytest.mark.parametrize("name", OF_MANY_LABELS)
def test_no_two_of_twelve_labels_look_the_same(name: str, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(plots, "as_image", lambda figure, format: figures.append(figure))
    OF_MANY_LABELS[name](epochs)
    (figure,) = figures
    (legend,) = figure.legends
    for lines in (legend.get_lines(), [line for line in figure.axes[0].lines if len(line.get_xdata()) == epochs]):
        looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}
        assert len(looks) == len(lines) >= len(LABELS)
