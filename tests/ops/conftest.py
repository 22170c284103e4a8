"""The backends that the tests of ops run on."""

from __future__ import annotations

from typing import Any

import gpu
import pytest
from cases import BACKENDS, ON_CPU_ALONE, Backend

# A GPU's only where there is one, or where it is asked for.
TESTED = [name for name in BACKENDS if name != "cuda" or gpu.missing() is None or gpu.REQUIRED]


@pytest.fixture(params=TESTED)
def backend(request: pytest.FixtureRequest) -> Backend:
    chosen = BACKENDS[request.param]
    if chosen.missing is not None:
        (gpu.skip if chosen.name == "cuda" else pytest.skip)(chosen.missing)
    return chosen


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Drop the tests of ops on backends that have no kernel for them."""

    def has_a_kernel(item: Any) -> bool:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        return not (parameters.get("backend", "").startswith("emulated") and parameters.get("op") in ON_CPU_ALONE)

    items[:] = [item for item in items if has_a_kernel(item)]
