from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))  # where the arguments of every op are

import gpu


@pytest.fixture(autouse=True, scope="session")
def on_cuda() -> None:
    """Every test here needs a device."""
    why = gpu.missing()
    if why is not None:
        gpu.skip(why)
