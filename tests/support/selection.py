"""Which of a test's combinations the quick set runs: enough of them that every two values meet.

A fault rarely needs three parameters at once. So of all combinations that a test's decorators multiply, the quick set
takes some in which each pair of values of two parameters stands together; the others are marked `slow`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import Any

FEW = 12
"""So many combinations of one test are all run."""


def pairwise(candidates: Sequence[dict[str, Any]]) -> list[int]:
    """Return the places of some candidates that hold every pair of values that any of them holds.

    They are chosen greedily, those that bring the most new pairs first, and so the same ones at every run.
    """
    held = [_pairs(candidate) for candidate in candidates]
    missing = set().union(*held)
    # In the order of a product, neighbors differ in one value; a stride apart, they bring more new pairs.
    number = len(held)
    stride = next(step for step in range(number * 5 // 8 + 1, 2 * number + 2) if math.gcd(step, number) == 1)
    order = [place * stride % number for place in range(number)]
    chosen = []
    for least in range(max(map(len, held)), 0, -1):
        for place in order:
            if len(held[place] & missing) >= least:
                chosen.append(place)
                missing -= held[place]
    return sorted(chosen)


def _pairs(candidate: dict[str, Any]) -> set[Hashable]:
    """The pairs of values that a candidate holds, or its value where it has one alone."""
    values = [(name, _hashable(candidate[name])) for name in sorted(candidate)]
    return set(combinations(values, min(2, len(values))))


def _hashable(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value
