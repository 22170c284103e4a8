"""The plots of a result, as PNG images in bytes: what is slow, and against what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastalign.analysis.plots import COLOURS, as_image
from fastalign.bench.steps import BP, COMPILED_BP
from fastalign.bench.summary import best_plain
from fastalign.errors import import_optional

Row = Mapping[str, Any]
MARKERS = "osD^vPX"


def plots(result: Mapping[str, Any]) -> dict[str, bytes]:
    """The plots that a result has rows for, by name.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    import_optional("matplotlib", "the plot")
    by_group = {group: [r for r in result["rows"] if r["group"] == group] for group in ("ops", "steps", "scaling")}
    found = {}
    if by_group["ops"]:
        found["roofline"] = roofline(by_group["ops"], result["speeds"])
    if by_group["steps"]:
        found["steps"] = steps(by_group["steps"])
    if by_group["scaling"]:
        found["scaling"] = scaling(by_group["scaling"])
    return found


def roofline(rows: Sequence[Row], speeds: Mapping[str, float]) -> bytes:
    """Operations a second of every op with products against its operations per byte, under the machine's roofs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    picture = Figure(figsize=(11, 5), dpi=130, layout="constrained")
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    for axes, dtype in zip(picture.subplots(1, len(dtypes), squeeze=False, sharey=True)[0], dtypes, strict=True):
        chosen = [row for row in rows if row["dtype"] == dtype and row["operations"]]
        at = {
            id(row): (_intensity(row), row["operations"] / row["variants"]["fastalign"]["median_us"] / 1e3)
            for row in chosen
        }
        ends = (0.7 * min(x for x, _ in at.values()), 1.4 * max(x for x, _ in at.values()))
        for name, style in (("copy in cache", ":"), ("copy in memory", "--")):
            xs = [ends[0] * (ends[1] / ends[0]) ** (i / 99) for i in range(100)]
            axes.plot(
                xs, [min(x * speeds[name], speeds[dtype]) / 1e9 for x in xs], "k" + style, lw=1, label=f"roof: {name}"
            )
        for number, op in enumerate(dict.fromkeys(row["op"] for row in chosen)):
            points = [at[id(row)] for row in chosen if row["op"] == op]
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                MARKERS[number // len(COLOURS) % len(MARKERS)],
                color=COLOURS[number % len(COLOURS)],
                ms=5,
                label=op,
            )
        axes.set(xscale="log", yscale="log", xlabel="operations per byte of operands and results")
        for of_axis in (axes.xaxis, axes.yaxis):
            of_axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            of_axis.set_minor_formatter(NullFormatter())
        axes.set_title(f"{dtype}: products of the library reach {speeds[dtype] / 1e9:.0f} GFLOP/s", fontsize=10)
        _tidy(axes)
    axes = picture.axes[0]
    axes.set_ylabel("GFLOP/s")
    picture.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=7)
    return as_image(picture, "png")


def _intensity(row: Row) -> float:
    return float(row["operations"] / row["bytes"])


def steps(rows: Sequence[Row]) -> bytes:
    """The time of each rule's step by network, beside plain PyTorch, and BP by torch as lines."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    networks = list(dict.fromkeys(row["shape"] for row in rows))
    columns = min(len(networks), 3)
    lines = math.ceil(len(networks) / columns)
    picture = Figure(figsize=(11, 3.6 * lines), dpi=130, layout="constrained")
    ways = {
        "fastalign step": COLOURS[0],
        "fastalign loop": COLOURS[5],
        "plain PyTorch": COLOURS[4],
        "torch.compile of plain": COLOURS[1],
        "floor": "#999999",
    }
    handles: dict[str, Any] = {name: Patch(color=colour) for name, colour in ways.items()}
    places = picture.subplots(lines, columns, squeeze=False).flat
    for axes in places[len(networks) :]:
        axes.set_axis_off()
    for axes, network in zip(places, networks, strict=False):
        of_network = [row for row in rows if row["shape"] == network]
        for place, row in enumerate(of_network):
            for number, (way, colour) in enumerate(ways.items()):
                variant = row["variants"].get(best_plain(row) if way == "plain PyTorch" else way)
                if variant:
                    scale = 1e-3
                    low, mid, high = (variant[k] * scale for k in ("p10_us", "median_us", "p90_us"))
                    error = [[max(mid - low, 0)], [max(high - mid, 0)]]
                    x = place + (number - 2) * 0.16
                    axes.bar(x, mid, 0.16, color=colour, yerr=error, error_kw={"lw": 0.6})
        for name, style in ((BP, "-"), (COMPILED_BP, "--")):
            variant = of_network[0]["variants"].get(name)
            if variant:
                line = axes.axhline(variant["median_us"] * 1e-3, color=COLOURS[6], ls=style, lw=1)
                handles.setdefault(name, line)
        axes.set_xticks(range(len(of_network)), [row["op"].upper() for row in of_network], fontsize=7)
        axes.set_title(network.replace(", ", "\n"), fontsize=8)
        shown = [v["median_us"] for row in of_network for name, v in row["variants"].items() if name in handles]
        axes.set_ylim(0, 1.15e-3 * max(shown))
        axes.tick_params(axis="y", labelsize=7)
        _tidy(axes, axis="y")
    picture.supylabel("ms a step (bars: p10–p90)", fontsize=9)
    picture.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=7, frameon=False, fontsize=8)
    return as_image(picture, "png")


def scaling(rows: Sequence[Row]) -> bytes:
    """Time above, memory below, against depth, width, batch and classes."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = list(rows[0]["variants"])
    colours = dict(zip((name.partition(", ")[0] for name in names), (COLOURS[6], *COLOURS), strict=False))
    axes_names = list(dict.fromkeys(row["op"] for row in rows))
    picture = Figure(figsize=(11, 5.4), dpi=130, layout="constrained")
    grid = picture.subplots(2, len(axes_names), squeeze=False, sharey="row", sharex="col")
    threads = sorted({row["threads"] for row in rows})
    for column, axis in enumerate(axes_names):
        top, bottom = grid[0][column], grid[1][column]
        of_axis = [row for row in rows if row["op"] == axis]
        for name in names:
            colour = colours[name.partition(", ")[0]]
            for number in threads:
                points = [row for row in of_axis if row["threads"] == number]
                xs = [int(row["shape"]) for row in points]
                times = [row["variants"][name]["median_us"] * 1e-3 for row in points]
                top.plot(xs, times, color=colour, ls="-" if number == threads[-1] else ":", marker=".", lw=1.3)
        with_memory = [row for row in of_axis if "peak_bytes" in row]
        for way in with_memory[0]["peak_bytes"]:
            rule, _, how = way.partition(", ")
            colour = colours[BP] if how == BP else colours[rule]
            xs = [int(row["shape"]) for row in with_memory]
            sizes = [row["peak_bytes"][way] / 2**20 for row in with_memory]
            bottom.plot(xs, sizes, color=colour, ls="--" if how == "recompute" else "-", marker=".", lw=1.3)
        for axes in (top, bottom):
            axes.set(xscale="log", yscale="log")
            _tidy(axes)
        bottom.set_xticks([int(row["shape"]) for row in with_memory], [row["shape"] for row in with_memory], fontsize=8)
        bottom.minorticks_off()
        bottom.set_xlabel(
            {"depth": "hidden layers", "width": "units of a layer", "batch": "batch size"}.get(axis, axis)
        )
    grid[0][0].set_ylabel("ms a step")
    grid[1][0].set_ylabel("peak memory of a step, MiB")
    handles = {name if name == BP else name.upper(): Line2D([], [], color=c) for name, c in colours.items()}
    handles |= {f"{threads[-1]} thread{'s' * (threads[-1] > 1)}, stored": Line2D([], [], color="grey")}
    if len(threads) > 1:
        handles |= {"1 thread (time)": Line2D([], [], color="grey", ls=":")}
    handles |= {"recomputed (memory)": Line2D([], [], color="grey", ls="--")}
    picture.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=8, frameon=False, fontsize=8)
    return as_image(picture, "png")


def _tidy(axes: Any, axis: str = "both") -> None:
    axes.grid(alpha=0.3, axis=axis)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
