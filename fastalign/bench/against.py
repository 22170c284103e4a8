"""`fastalign bench --against`: the rows of two builds, this one and another, in processes that take turns."""

from __future__ import annotations

import re
import statistics
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastalign.bench import environment
from fastalign.bench.child import CONTROLS, is_own
from fastalign.bench.plan import Plan
from fastalign.bench.process import THIS_BUILD, Rows, in_a_process
from fastalign.bench.summary import KEY, percentile
from fastalign.errors import RunError

PAIRS = 9
MOST, MOST_OF_BRIEF = 1.03, 1.06
"""Beyond this ratio a row is slower; of brief rows less is seen."""
BRIEF = 200.0
"""Microseconds below which a row is brief."""

Key = tuple[Any, ...]


class Comparison(NamedTuple):
    """How many times as long the new build takes: median and quartiles over the pairs, and what they say."""

    ratio: float
    lower: float
    upper: float
    verdict: str


def compare(old: Sequence[float], new: Sequence[float]) -> Comparison:
    """Compare the medians of two builds, one of each a pair.

    The new build is slower where even the lower quartile of the ratios is too large, and faster where the upper
    quartile is as small.
    """
    ratios = [b / a for a, b in zip(old, new, strict=True)]
    lower, upper = percentile(ratios, 0.25), percentile(ratios, 0.75)
    most = MOST_OF_BRIEF if statistics.median(old) < BRIEF else MOST
    verdict = "slower" if lower > most else "faster" if upper < 1 / most else ""
    return Comparison(statistics.median(ratios), lower, upper, verdict)


def run(
    plan: Plan,
    old: Path,
    new: Path | None,
    tell: Callable[[str], None],
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Measure a plan's pairs, and compare row by row. `keep` is given what there is after every pair.

    new: the build that is judged; None is this one.

    Raises:
        RunError: one of them is no build, or a process failed.
    """
    torch.set_num_threads(plan.threads)
    described = {**environment.describe(), "device": plan.device}
    rows: dict[str, list[Rows]] = {"old": [], "new": []}
    result: dict[str, Any] = {}
    with _unpacked("--against", old) as old_root, _unpacked("--of", new or THIS_BUILD) as new_root:
        turns = [("old", old, old_root), ("new", new, new_root)]
        for pair in range(plan.processes):
            for which, build, root in turns:
                told = _after(f"pair {pair + 1} of {plan.processes}, {which}", tell)
                found = in_a_process(root, plan, pair, told, compares=True)
                rows[which].append(found["rows"])
                described[which] = _description(found["build"], build)
            turns.reverse()
            result = {**described, "pairs": pair + 1, **compared(rows["old"], rows["new"])}
            keep(result)
    return result


def _after(place: str, tell: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: tell(f"{place}: {text}")


def _description(build: dict[str, Any], path: Path | None) -> dict[str, Any]:
    """What a build says of itself; where it is no checkout its commit is that of the wheel's name."""
    if path is not None and build["uncommitted_changes"] is None:
        named = re.match(r"[^-]+-[^-]+-0\.([0-9a-f]{7,40})-", path.name)  # as `make wheel` writes it
        build["commit"] = named and named[1]
    return {
        "build": path.name if path is not None else "this build",
        **{name: build[name] for name in ("fastalign", "commit", "uncommitted_changes", "in_use")},
    }


def compared(old: Sequence[Rows], new: Sequence[Rows]) -> dict[str, Any]:
    """Each of fastalign's variants that both builds have, with the control of its row, and those that only one has."""
    before, after = medians(old), medians(new)
    rows = []
    for key in before:
        *row, way = key
        if not is_own(way) or key not in after:
            continue
        found: dict[str, Any] = {**dict(zip(KEY, row, strict=True)), "way": way, **_pairs(before[key], after[key])}
        for control in CONTROLS:
            if (beside := (*row, control)) in before.keys() & after.keys():
                found["control"] = {"way": control, **_pairs(before[beside], after[beside])}
        rows.append(found)
    return {"rows": rows, "only_old": _only(before, after), "only_new": _only(after, before)}


def medians(processes: Sequence[Rows]) -> dict[Key, list[float]]:
    """Return the median of each variant of each row, in each process."""
    found: dict[Key, list[float]] = {}
    for rows in processes:
        for row in rows:
            for way, times in row.get("times", {}).items():
                key = (*(row.get(name) for name in KEY), way)
                found.setdefault(key, []).append(statistics.median(times))
    return found


def _pairs(old: list[float], new: list[float]) -> dict[str, Any]:
    return {"old_us": old, "new_us": new, **compare(old, new)._asdict()}


def _only(these: Mapping[Key, Any], those: Mapping[Key, Any]) -> list[str]:
    own = (key for key in these if is_own(key[-1]) and key not in those)
    return [", ".join(str(part) for part in key if part is not None) for key in own]


@contextmanager
def _unpacked(option: str, build: Path) -> Iterator[Path]:
    """The folder that holds the package of a build, for the time of the block.

    Raises:
        RunError: it is neither a wheel nor a folder with the package.
    """
    if (build / "fastalign" / "__init__.py").is_file():
        yield build.resolve()
        return
    if not zipfile.is_zipfile(build):
        raise RunError(f"{option}: expected a wheel of fastalign or a folder that holds it, got {build}")
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(build) as wheel:
            wheel.extractall(folder)
        yield Path(folder)
