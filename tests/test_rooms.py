"""The rooms of the package: who imports whom, who opens files, and the names that rooms had before."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastalign

PACKAGE = Path(fastalign.__file__).parent
LEVELS = [
    {"errors", "tables", "_version", "_C", "former"},
    {"_start"},
    {"ops"},
    {"rules", "info"},
    {"engine"},
    {"nn"},
    {"step", "convert", "analysis"},
    {"bench"},
    {"papers"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
FORMER = {"training", "data", "experiments", "reference"}
USER_FILES = {"bench", "papers", "cli"}
OPENERS = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "unlink", "NamedTemporaryFile"}
PUBLIC_MODULES = {"fastalign.analysis.plots", "fastalign.analysis.metrics"}
BUILD_RECORD = "ops/native.py"  # reads what setup.py wrote beside it


def modules() -> Iterator[tuple[str, Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in FORMER and room not in ("__init__", "__main__"):
            yield room, path, ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The modules of the package that a module imports, and the names that it takes from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fastalign":
            yield from ((node.module, name.name) for name in node.names)
        elif isinstance(node, ast.Import):
            yield from ((name.name, "") for name in node.names if name.name.split(".")[0] == "fastalign")


def test_no_arrow_runs_back_up() -> None:
    wrong = []
    for room, path, tree in modules():
        for module, name in imported(tree):
            other = module.split(".")[1] if "." in module else name
            lazy = (room, other) == ("analysis", "papers") and name == "read_metrics"  # by its former place
            if other in LEVEL and other != room and LEVEL[other] >= LEVEL[room] and not lazy:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {module}.{name}")
    assert not wrong


def test_every_room_has_a_level() -> None:
    assert {room for room, _, _ in modules()} <= set(LEVEL)


def test_the_laboratory_uses_public_names() -> None:
    """What a user can import too: names of a room itself, plots, and errors."""
    below = {f"fastalign.{room}" for room in LEVEL if LEVEL["errors"] < LEVEL[room] < LEVEL["bench"]}
    wrong = []
    for room, path, tree in modules():
        for module, name in imported(tree) if room == "papers" else ():
            inside = any(module.startswith(f"{each}.") for each in below) and module not in PUBLIC_MODULES
            hidden = module in below and name not in (*importlib.import_module(module).__all__, "plots")
            if inside or hidden:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {module}.{name}")
    assert not wrong


def test_only_the_laboratory_the_benchmarks_and_the_command_open_files() -> None:
    wrong = []
    for room, path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and room not in USER_FILES:
                called = node.func
                name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
                if name in OPENERS and str(path.relative_to(PACKAGE)) != BUILD_RECORD:
                    wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno} calls {name}")
    assert not wrong


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("fastalign.data", "fastalign.papers.data"),
        ("fastalign.experiments", "fastalign.papers.experiments"),
        ("fastalign.reference", "fastalign.ops.reference"),
        ("fastalign.training.run", "fastalign.papers.runs.run"),
        ("fastalign.training.metrics", "fastalign.papers.runs.metrics"),
        ("fastalign.training.progress", "fastalign.papers.runs.progress"),
        ("fastalign.training.recipe", "fastalign.papers.runs.recipe"),
        ("fastalign.training.train_step", "fastalign.step.train_step"),
    ],
)
def test_former_names(former: str, present: str) -> None:
    """They are the same modules, and say the present name."""
    code = f"import {former} as former, {present} as present; assert former is present"
    shown = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True)
    assert f"{former} is now {present}" in shown.stderr


def test_former_place_of_read_metrics() -> None:
    from fastalign import analysis, papers

    with pytest.warns(DeprecationWarning, match=r"now in fastalign\.papers"):
        assert analysis.read_metrics is papers.read_metrics
