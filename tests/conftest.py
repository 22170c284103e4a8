"""Which tests run, and how many threads each has."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu
import pytest
import torch
from selection import FEW, pairwise

SUPPORT = Path(__file__).parent / "support"
NEED_A_GPU = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is slow and what needs a GPU; leave the latter out where there is none."""
    for item in items:
        if "gpu" in item.path.parent.parts or _parameters(item).get("backend") == "cuda":
            item.add_marker("gpu")
    for item in _beyond_pairs(items):
        item.add_marker("slow")
    if gpu.missing() is not None and not gpu.REQUIRED:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("gpu")])
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
        config.stash[NEED_A_GPU] = True


def _beyond_pairs(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """The combinations of each test, on each backend, that its quick set does not need."""
    tests: dict[Any, list[pytest.Item]] = defaultdict(list)
    for item in items:
        tests[item.path, item.nodeid.partition("[")[0], _parameters(item).get("backend")].append(item)
    for combinations in tests.values():
        if len(combinations) > FEW:
            chosen = {combinations[place] for place in pairwise([_parameters(item) for item in combinations])}
            yield from (item for item in combinations if item not in chosen)


def _parameters(item: pytest.Item) -> dict[str, Any]:
    return item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say in one line what was left out for want of a GPU."""
    if config.stash.get(NEED_A_GPU, False):
        terminalreporter.write_line(f"tests that need a GPU were left out: {gpu.missing()}")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These problems are too small for more, and share the machine with the processes that tests start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def folders_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What processes share through folders of the user's, the tests share with no other process.

    A benchmark on this machine neither holds up the runs of the tests nor is held up by them. And torch keeps what it
    compiled under a name that leaves ATEN_CPU_CAPABILITY out: loaded under another one, it computes wrong numbers.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("PYTHONPATH", str(SUPPORT), prepend=os.pathsep)  # of tests that run a part of theirs elsewhere
        yield
