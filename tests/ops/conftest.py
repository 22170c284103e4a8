"""The backends that the tests of ops run on."""

from __future__ import annotations

from typing import Any

import gpu
import pytest
from cases import BACKENDS, ON_CPU_ALONE, TESTED, WITH_PRODUCT, Backend


@pytest.fixture(params=TESTED)
def backend(request: pytest.FixtureRequest) -> Backend:
    chosen = BACKENDS[request.param]
    if chosen.missing is not None:
        (gpu.skip if chosen.name == "cuda" else pytest.skip)(chosen.missing)
    return chosen


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop the tests of ops on backends that have no kernel for them, or none by the library."""

    def is_there(item: Any) -> bool:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        backend, op = parameters.get("backend"), parameters.get("op")
        if backend == "emulated-library" and op is not None:
            return op in WITH_PRODUCT
        return backend != "emulated" or op not in ON_CPU_ALONE

    config.hook.pytest_deselected(items=[item for item in items if not is_there(item)])
    items[:] = [item for item in items if is_there(item)]
