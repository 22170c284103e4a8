from __future__ import annotations

from collections.abc import Iterator

import gpu
import pytest
import torch
from cases import BACKENDS, Backend


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    chosen = BACKENDS[request.param]
    if chosen.missing is not None:
        (gpu.skip if chosen.name == "cuda" else pytest.skip)(chosen.missing)
    return chosen


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These problems are too small for more; test_determinism says that their number changes no bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
