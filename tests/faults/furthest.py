"""A plugin of pytest: a test that bounds errors goes on past the first that is too large, and fails by the furthest."""

from __future__ import annotations

import math
from collections.abc import Generator

import compare
import pytest

_found: list[tuple[float, str]] = []


def _note(name: str, value: float, bound: float) -> None:
    if not value <= bound:
        times = value / bound if bound > 0 else math.inf
        _found.append((math.inf if math.isnan(times) else times, f"{name} {value:.3g}, expected at most {bound:.3g}"))


compare._assert_at_most = _note


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    _found.clear()
    result = yield
    if _found:
        raise AssertionError(max(_found)[1])
    return result
