"""The choice of combinations that the quick set runs."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import pytest
from selection import pairwise


def pairs(candidates: list[dict[str, Any]]) -> set[Any]:
    return {pair for candidate in candidates for pair in combinations(sorted(candidate.items()), 2)}


@pytest.mark.parametrize("sizes", [(3, 4), (2, 3, 4), (5, 5, 5), (23, 13, 4), (2, 2, 2, 2, 2)])
def test_every_two_values_meet(sizes: tuple[int, ...]) -> None:
    candidates = [dict(zip("abcde", values, strict=False)) for values in product(*map(range, sizes))]
    chosen = [candidates[place] for place in pairwise(candidates)]
    assert pairs(chosen) == pairs(candidates)
    largest, next_largest = sorted(sizes)[:-3:-1]
    assert len(chosen) <= 2 * largest * next_largest


def test_pairs_that_no_candidate_holds_are_not_missed() -> None:
    candidates = [{"rule": rule, "net": net, "seed": seed} for rule, net in ("aa", "bb", "bc") for seed in range(3)]
    assert pairs([candidates[place] for place in pairwise(candidates)]) == pairs(candidates)


def test_every_value_of_one_parameter_is_taken() -> None:
    assert pairwise([{"optimizer": number} for number in range(20)]) == list(range(20))


def test_values_that_cannot_be_hashed_are_told_apart() -> None:
    candidates = [{"kernel": kernel, "stride": stride} for kernel in ([1, 1], [3, 3]) for stride in ([1], [2])]
    assert pairwise(candidates) == [0, 1, 2, 3]
