"""From the readings of several processes to medians, spreads and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

KEY = ("group", "op", "shape", "dtype", "threads")
OWN = ("fastalign", "fastalign step", "fastalign loop")


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies, between neighbours in a straight line."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def merge(processes: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The rows of several processes as one: of each variant the median of the processes' medians, p10 and p90 of all.

    A ratio is the median over the processes of the ratio of medians within one.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    speeds: list[Mapping[str, float]] = []
    for rows in processes:
        for row in rows:
            if "speeds" in row:
                speeds.append(row["speeds"])
            else:
                groups.setdefault(tuple(row.get(name) for name in KEY), []).append(row)
    result: dict[str, Any] = {"rows": [_merge_row(rows) for rows in groups.values()]}
    if speeds:
        result["speeds"] = {name: statistics.median(s[name] for s in speeds) for name in speeds[0]}
    return result


def _merge_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    merged = {name: value for name, value in rows[0].items() if name != "times"}
    if "times" not in rows[0]:
        return merged
    merged["variants"] = {
        name: {
            "median_us": statistics.median(medians),
            "p10_us": percentile(readings, 0.1),
            "p90_us": percentile(readings, 0.9),
            "process_medians_us": medians,
        }
        for name in rows[0]["times"]
        for medians in [[statistics.median(row["times"][name]) for row in rows]]
        for readings in [[time for row in rows for time in row["times"][name]]]
    }
    return merged


def ratio(row: Mapping[str, Any], own: str, other: str | None) -> float | None:
    """How many times as long one variant takes as the other: the median over the processes."""
    variants = row["variants"]
    if other is None or other not in variants or own not in variants:
        return None
    pairs = zip(variants[own]["process_medians_us"], variants[other]["process_medians_us"], strict=True)
    return statistics.median(a / b for a, b in pairs)


def ratio_to_parts(row: Mapping[str, Any], own: str) -> float | None:
    """How many times as long a variant takes as the row's parts one by one: the median over the processes."""
    if not row.get("parts"):
        return None
    variants = row["variants"]
    together = map(sum, zip(*(variants[part]["process_medians_us"] for part in row["parts"]), strict=True))
    return statistics.median(a / b for a, b in zip(variants[own]["process_medians_us"], together, strict=True))


def best_plain(row: Mapping[str, Any]) -> str | None:
    """The fastest of the forms of plain PyTorch, by its median."""
    plain = [name for name in row["variants"] if name.startswith("plain PyTorch")]
    return min(plain, key=lambda name: row["variants"][name]["median_us"], default=None)
