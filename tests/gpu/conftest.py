from __future__ import annotations

import gpu
import pytest


@pytest.fixture(autouse=True, scope="session")
def on_cuda() -> None:
    """Every test here needs a device."""
    why = gpu.missing()
    if why is not None:
        gpu.skip(why)
