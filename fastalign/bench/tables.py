"""The rows of a result as tables, for the terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from fastalign.bench.steps import BP, COMPILED_BP
from fastalign.bench.summary import best_plain, ratio
from fastalign.tables import Table

Row = Mapping[str, Any]


def origin(result: Mapping[str, Any]) -> str:
    """Where a result is from: machine, commit and command."""
    machine = result["machine"]
    where = f"{result['device']}: {machine['processor']}, {machine['cores']} cores, {result['threads']} threads"
    return f"{where}; torch {result['torch']}, {_version(result)}; {result['command']}"


def builds(result: Mapping[str, Any]) -> str:
    """A line for each of the two builds of a comparison."""
    lines = []
    for which in ("old", "new"):
        build = result[which]
        level = build["in_use"]["cpu"]["level"] or "PyTorch reference"
        lines.append(f"{which}: {_version(build)}, on the CPU {level}; {build['build']}")
    return "\n".join(lines)


def _version(build: Mapping[str, Any]) -> str:
    changed = " with changes" if build["uncommitted_changes"] else ""
    return f"fastalign {build['fastalign']}, commit {(build['commit'] or 'unknown')[:10]}{changed}"


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of all groups that a result holds."""
    makers = {"ops": ops_table, "steps": steps_table, "memory": memory_table, "scaling": scaling_table}
    return [
        make(rows) for group, make in makers.items() if (rows := [r for r in result["rows"] if r["group"] == group])
    ]


def ops_table(rows: Sequence[Row]) -> Table:
    """A line for each op, shape and dtype."""
    head = ("op", "shape", "dtype", "µs (p10–p90)", "speed", "×floor", "×plain", "×comp.", "×best")
    body = []
    for row in rows:
        rivals = ("floor", "plain PyTorch", "torch.compile", "best known")
        body.append(
            (
                row["op"],
                short(row["shape"]),
                _short_dtype(row),
                spread(row["variants"]["fastalign"]),
                speed(row, "fastalign"),
                *(times(ratio(row, "fastalign", rival)) for rival in rivals),
            )
        )
    title = "Ops: time, speed, and × the time of the floor, plain PyTorch, torch.compile of it, and the best known"
    return Table(title, head, body, 3)


def speed(row: Row, way: str) -> str:
    """Operations a second of products, bytes a second of what else there is."""
    median = row["variants"][way]["median_us"]
    if row["operations"]:
        return f"{figure(row['operations'] / median / 1e3)} GF/s"
    return f"{figure(row['bytes'] / median / 1e3)} GB/s"


def short(text: str) -> str:
    """Return a shape, or a way to take a step, without what is there to be read more easily."""
    for long, close in _SHORT.items():
        text = text.replace(long, close)
    return text


_SHORT = {
    " × ": "×",
    " → ": "→",
    " = ": "=",
    ", batch ": ", N=",
    "plain PyTorch": "plain",
    "torch.compile of plain": "plain, compiled",
    "BP by torch.compile": "BP, compiled",
    "with activations and loss": "with f, loss",
}


def _short_dtype(row: Row) -> str:
    return {"float32": "f32", "bfloat16": "bf16"}.get(row["dtype"], str(row["dtype"]))


def steps_table(rows: Sequence[Row]) -> Table:
    """A line for each network, rule and way to take a step."""
    head = ("network", "rule", "way", "µs (p10–p90)", "speed", "− floor", "×floor", "×plain", "×BP", "×BP c.")
    body = []
    for row in rows:
        variants = row["variants"]
        for way in sorted(variants, key=lambda name: not name.startswith("fastalign")):
            if way in (BP, COMPILED_BP) and row["op"] != "bp":
                continue
            over = variants[way]["median_us"] - variants["floor"]["median_us"]
            body.append(
                (
                    short(row["shape"]),
                    row["op"].upper(),
                    short(way),
                    spread(variants[way]),
                    speed(row, way),
                    "" if way == "floor" else f"{over:+.0f}" if abs(over) < 1e4 else "-+"[over > 0] + figure(abs(over)),
                    *(times(ratio(row, way, other)) for other in ("floor", best_plain(row), BP, COMPILED_BP)),
                )
            )
    return Table(
        "Steps: time, µs beyond the floor, and × the time of the floor, the best plain PyTorch, BP by torch, compiled",
        head,
        body,
        3,
    )


def memory_table(rows: Sequence[Row]) -> Table:
    """A line for each depth, rule and way to take a step."""
    head = ("network", "rule", "way", "peak", "× two layers' activations", "× time of store")
    body: list[tuple[str, ...]] = [
        (
            row["shape"],
            row["op"].upper(),
            way,
            size_of(peak),
            f"{peak / row['two_layers']:.2f}",
            times(ratio(row, way, "store")),
        )
        for row in rows
        for way, peak in row["peak_bytes"].items()
    ]
    title = "Memory: the most that a step holds beyond parameters, momentum and the batch, and × the time of storing"
    return Table(title, head, body, 3)


def scaling_table(rows: Sequence[Row]) -> Table:
    """A line for each point and number of threads."""
    names = list(rows[0]["variants"])
    head = ("axis", "value", "threads", *(f"{name.removesuffix(', fastalign step')}, µs" for name in names))
    body = [
        (row["op"], row["shape"], str(row["threads"]), *(figure(row["variants"][n]["median_us"]) for n in names))
        for row in rows
    ]
    return Table("Scaling: time of a step (BP by torch's loop, then fastalign's steps by rule)", head, body, 3)


def comparison_table(rows: Sequence[Row]) -> Table:
    """A line for each variant of two builds: its time in both, the ratio, that of the row's control, the verdict."""
    head = ("what", "shape", "dtype", "µs old", "µs new", "× old (quartiles)", "control", "")
    body: list[tuple[str, ...]] = [
        (
            _variant(row),
            short(row["shape"]),
            _short_dtype(row),
            figure(median(row["old_us"])),
            figure(median(row["new_us"])),
            f"{row['ratio']:.2f} ({_quartiles(row)})",
            _quartiles(row["control"]) if "control" in row else "",
            row["verdict"],
        )
        for row in rows
    ]
    title = "Two builds: × the time of the old one, median and quartiles over the pairs; quartiles of the row's control"
    return Table(title, head, body, 3)


def _variant(row: Row) -> str:
    way = row["way"].replace("fastalign step", "step").removeprefix("fastalign").strip()
    threads = "" if row["threads"] is None else f"threads {row['threads']}"
    return ", ".join(filter(None, (row["op"], way, threads)))


def _quartiles(compared: Mapping[str, float]) -> str:
    return f"{compared['lower']:.2f}–{compared['upper']:.2f}"


def losses_table(rows: Sequence[Row], least: float = 1.05) -> Table:
    """Where a rival that computes the same is faster by more than a twentieth, and its p90 lies below ours.

    BP by torch is a rival of BP alone.
    """
    head = ("what", "shape", "dtype", "rival", "× rival")
    body = []
    for row in rows:
        own = {"ops": "fastalign", "steps": "fastalign step"}[row["group"]]
        for rival, other in row["variants"].items():
            computes_bp = row["op"] == "bp" and rival in (BP, COMPILED_BP)
            if not (computes_bp or rival.startswith(("plain PyTorch", "torch.compile", "best known"))):
                continue
            found = ratio(row, own, rival)
            if found is not None and found > least and other["p90_us"] < row["variants"][own]["p90_us"]:
                body.append((row["op"], row["shape"], row["dtype"], rival, f"{found:.2f}"))
    return Table("Where it loses", head, sorted(body, key=lambda cells: -float(cells[-1])), 4)


def spread(variant: Mapping[str, float]) -> str:
    """The median, and p10 to p90."""
    return f"{figure(variant['median_us'])} ({figure(variant['p10_us'])}–{figure(variant['p90_us'])})"


def figure(value: float) -> str:
    """Return the three digits that count, in at most five characters: thousands as k from 10000 on, millions as M."""
    if value <= 0:
        return "0"
    for least, unit, letter in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= least:
            return figure(value / unit) + letter
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value < 100 else f"{value:.0f}"


def times(value: float | None) -> str:
    """Return a ratio, where there is one: two digits after the point below 100."""
    return "" if value is None else f"{value:.2f}" if value < 100 else figure(value)


def size_of(size: float) -> str:
    """Bytes."""
    return f"{size / 2**20:.2f} MiB"
