"""A copy of the sources in which faults are put in, compiled and tested, one at a time.

It lies in `build/faults` and is kept, so that a fault compiles only what it changes: a CPU kernel for one
instruction-set level, CUDA kernels for the emulator. What is built without faults is put back after each.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from fault import Fault

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "faults"
TREE, WITHOUT_FAULTS = FOLDER / "tree", FOLDER / "without_faults"
SOURCES = ("csrc", "fastalign", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")
BUILT = ("build/native", "build/emulated", "fastalign/_C.abi3.so", "fastalign/_build.json")
LEVELS = ("baseline", "avx2", "avx512", "amx")
NATIVE = TREE / "build" / "native"

ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(str(TREE / folder) for folder in (".", "tests/support", "tests/faults")),
    "PYTHONDONTWRITEBYTECODE": "1",  # which would be taken for a source of the same second and size
    "FASTALIGN_NATIVE": "1",
    "FASTALIGN_CUDA": "0",
}


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let nobody else use the copy meanwhile."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare(emulator: bool) -> None:
    """Bring the copy up to date and build it without faults."""
    _mirror(WITHOUT_FAULTS, TREE, BUILT)
    _copy_sources()
    _run("setup.py", "-q", "build_ext", "--inplace")
    if emulator:
        _run("-c", "import sys; import emulator; emulator.kernels()")
    _mirror(TREE, WITHOUT_FAULTS, BUILT)


def level_in_use() -> str:
    """Return the instruction-set level that the kernels run on, the highest of this machine."""
    return _run("-c", "from fastalign.ops import native; print(native.module.cpu_level())").strip()


@contextlib.contextmanager
def with_fault(fault: Fault, level: str) -> Iterator[None]:
    """Put a fault into the copy, where CPU kernels have it at one level."""
    source = TREE / fault.file
    text, times = source.read_text(), source.stat()
    source.write_text(fault.put_into(text))
    try:
        if fault.kind == "cpu":
            # Of the levels that read the file one is compiled: the others seem up to date by its time.
            os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
            for built in _objects_of(source, level):
                built.unlink()
            _run("setup.py", "-q", "build_ext", "--inplace")
        yield
    finally:
        source.write_text(text)
        os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
        _mirror(WITHOUT_FAULTS, TREE, BUILT)


def python(arguments: Iterable[str], level: str, limit: float) -> subprocess.CompletedProcess[str]:
    """Run Python in the copy, on a level of the CPU kernels, for so many seconds at most."""
    environment = ENVIRONMENT | {"FASTALIGN_CPU_CAPABILITY": level}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=TREE, env=environment, capture_output=True, text=True, timeout=limit, check=False
    )


def _run(*arguments: str) -> str:
    """Run Python in the copy, and return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=TREE, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed in {TREE}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def _objects_of(source: Path, level: str) -> list[Path]:
    """Return the objects that a C++ source goes into; of the instruction-set levels' only one.

    Raises:
        RuntimeError: it goes into none, so that a fault in it could not be seen.
    """
    from ninja import BIN_DIR

    command = [str(Path(BIN_DIR) / "ninja"), "-t", "deps"]
    listed = subprocess.run(command, cwd=NATIVE, capture_output=True, text=True, check=True).stdout
    found = []
    for entry in listed.split("\n\n"):
        name, *dependencies = entry.splitlines() or [""]
        built = NATIVE / name.partition(":")[0]
        other_level = built.name.startswith("level_") and built.name != f"level_{level}.cpp.o"
        if source in ((TREE / path.strip()).resolve() for path in dependencies) and not other_level:
            found.append(built)
    if not found:
        raise RuntimeError(f"{source} is in no object that is compiled for {level}")
    return found


def _copy_sources() -> None:
    """Copy what differs; what is gone goes."""
    paths = [path for name in SOURCES for path in _files(ROOT / name)]
    wanted = {path.relative_to(ROOT) for path in paths if not _is_made(path)}
    for path in wanted:
        copy = TREE / path
        if not copy.exists() or copy.read_bytes() != (ROOT / path).read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, copy)
    for name in SOURCES:
        for copy in _files(TREE / name):
            if not _is_made(copy) and copy.relative_to(TREE) not in wanted:
                copy.unlink()


def _is_made(path: Path) -> bool:
    """Whether a file among the sources is made of them."""
    return re.search(r"\.(pyc|so)$|_build\.json$", path.name) is not None


def _mirror(source: Path, target: Path, names: Iterable[str]) -> None:
    """Make files of one folder, with their times, those of another; what is not there is left as it is."""
    for name in names:
        for path in _files(source / name):
            copy = target / path.relative_to(source)
            if not copy.exists() or (copy.stat().st_mtime_ns, copy.stat().st_size) != (
                path.stat().st_mtime_ns,
                path.stat().st_size,
            ):
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.unlink(missing_ok=True)
                shutil.copy2(path, copy)


def _files(path: Path) -> list[Path]:
    """Return the files of a folder, or the file."""
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
