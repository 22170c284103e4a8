"""Builds the CUDA sources for the emulator, and runs their kernels on torch's CPU tensors."""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
FOLDER = ROOT / "build" / "emulated"
KERNELS = (CSRC / "cuda" / "feedback_term.cu",)
SCHEDULES = (1, 2)

# Every access and every undefined operation of a kernel is checked: by functions of the emulator, not of the compiler.
CHECKS = (
    "-fsanitize=undefined -fno-sanitize=vptr,return -fsanitize=kernel-address --param asan-stack=0 "
    "--param asan-globals=0 --param asan-instrumentation-with-call-threshold=0"
)
USUAL = "-std=c++20 -g1 -fPIC -fno-gnu-unique -fvisibility-inlines-hidden -Wall -Wextra -Wno-unknown-pragmas"


@functools.cache
def missing() -> str | None:
    """Why the emulator cannot be built here, None where it can."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        return "the emulator runs on x86-64 Linux only"
    if shutil.which("g++") is None:
        return "there was no g++ to compile the emulator"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "there was no Python.h to compile the emulator's module"
    for module in ("pybind11", "ninja"):
        if importlib.util.find_spec(module) is None:
            return f"there was no {module} to build the emulator"
    if cuda_headers() is None:
        return "there were no CUDA headers to compile the kernels for the emulator"
    return None


def cuda_headers() -> Path | None:
    """The folder of CUDA's headers: of the toolkit, or of the packages that torch installs."""
    nvcc = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), nvcc and Path(nvcc).resolve().parent.parent, "/usr/local/cuda"]
    folders = [Path(home) / "include" for home in homes if home]
    folders += sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/c*/include"))
    needed = ("cuda_runtime_api.h", "cuda_bf16.h", "cuda_fp16.h", "nv/target")
    return next((folder for folder in folders if all((folder / name).exists() for name in needed)), None)


def build(name: str, kernels: tuple[Path, ...], binding: Path, module: str) -> ModuleType:
    """The module that a binding makes of kernels, in files of a name; only what changed is compiled again.

    The emulator itself is a library of its own: the kernels' copies of inline functions check what they access, and
    must not become its copies.
    """
    import ninja
    import pybind11

    includes = [f"-I{path}" for path in (CSRC / "emulator" / "include", CSRC)]
    includes += [f"-isystem{path}" for path in (cuda_headers(), pybind11.get_include(), sysconfig.get_path("include"))]
    compiler = f"g++ {USUAL} {shlex.join(includes)} -MD -MF $out.d"
    runtime = [path for path in sorted((CSRC / "emulator").glob("*.cpp")) if path.name != "module.cpp"]
    lines = [
        "rule kernel",
        f"  command = {compiler} -O1 {CHECKS} -x c++ -c $in -o $out",
        "  depfile = $out.d",
        "rule host",
        f"  command = {compiler} -O2 -c $in -o $out",
        "  depfile = $out.d",
        "rule module",
        f"  command = {compiler} -O0 -fvisibility=hidden -c $in -o $out",
        "  depfile = $out.d",
        "rule library",
        "  command = g++ -shared -Wl,-z,defs -Wl,-Bsymbolic -Wl,-soname,$out -Wl,-rpath,'$$ORIGIN' $in -o $out",
        *(f"build {path.name}.o: host {path}" for path in runtime),
        f"build libemulator.so: library {' '.join(path.name for path in runtime)}".replace(".cpp", ".cpp.o"),
        *(f"build {name}.{path.name}.o: kernel {path}" for path in kernels),
        f"build lib{name}.so: library {' '.join(f'{name}.{path.name}.o' for path in kernels)} libemulator.so",
        f"build {module}.module.o: module {binding}",
        "rule extension",
        "  command = g++ -shared -Wl,-rpath,'$$ORIGIN' $in -o $out",
        f"build {name}.so: extension {module}.module.o lib{name}.so libemulator.so",
    ]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (FOLDER / f"{name}.ninja").write_text("\n".join(lines) + "\n")
        command = [str(Path(ninja.BIN_DIR) / "ninja"), "-j1", "-f", f"{name}.ninja"]
        built = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    if built.returncode:
        raise RuntimeError(f"the emulator did not build:\n{built.stdout}{built.stderr}")
    # The dotted name lets modules of one binding differ.
    spec = importlib.util.spec_from_file_location(f"{name}.{module}", FOLDER / f"{name}.so")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@functools.cache
def kernels() -> ModuleType:
    """The kernels of the package."""
    return build("emulated", KERNELS, CSRC / "emulator" / "module.cpp", "emulated")


@functools.cache
def probes() -> ModuleType:
    """The kernels that test the emulator itself."""
    folder = Path(__file__).parent / "emulated"
    return build("probes", (folder / "probes.cu",), folder / "module.cpp", "probes")


def with_fault(name: str, source: Path, pattern: str, replacement: str, number: int = 0) -> ModuleType:
    """The kernels with one match of a pattern in a source replaced."""
    text = source.read_text()
    match = list(re.finditer(pattern, text))[number]
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    changed = folder / source.name
    faulty = text[: match.start()] + replacement + text[match.end() :]
    if not changed.exists() or changed.read_text() != faulty:
        changed.write_text(faulty)
    sources = tuple(changed if kernel == source else kernel for kernel in KERNELS)
    return build(name, sources, CSRC / "emulator" / "module.cpp", "emulated")


def array(tensor: Tensor) -> tuple[int, str, list[int], list[int]]:
    """A tensor as the modules take it."""
    return tensor.data_ptr(), str(tensor.dtype).removeprefix("torch."), list(tensor.shape), list(tensor.stride())


def feedback_term(*values: Any, schedule: int | None = None, module: ModuleType | None = None) -> Tensor:
    """The op of this name as its CUDA binding runs it: in one order of its threads, or in several."""
    signal, feedback, kept, activation, given_output, dropout, _ = values
    if dropout:
        pytest.skip("the CUDA kernel knows no dropout: its binding calls the reference")
    results = []
    for order in SCHEDULES if schedule is None else [schedule]:
        delta = torch.full(kept.shape, float("nan"), dtype=kept.dtype)
        arrays = [array(tensor) for tensor in (signal, feedback, kept, delta)]
        (module or kernels()).feedback_term(order, *arrays, int(activation), given_output)
        results.append(delta)
    # A kernel promises the same bits at every run.
    assert all(torch.equal(result.view(torch.uint8), results[0].view(torch.uint8)) for result in results[1:])
    return results[0]


LAUNCHERS = {"feedback_term": feedback_term}
