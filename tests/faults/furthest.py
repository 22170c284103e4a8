"""A plugin of pytest: a test that bounds errors goes on past the first that is too large, and fails by the furthest."""

from __future__ import annotations

from collections.abc import Generator

import compare
import pytest

_found: list[compare.Excess] = []
compare._fail = _found.append  # type: ignore[assignment]


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    _found.clear()
    result = yield
    if _found:
        raise AssertionError(max(_found).message)
    return result
