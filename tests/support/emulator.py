"""Builds the CUDA sources for the emulator, and runs their kernels on torch's CPU tensors."""

from __future__ import annotations

import contextlib
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
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
# With the compiler's own sanitizers instead: they check the emulator and the host's side of the kernels too.
SANITIZED = os.environ.get("FASTALIGN_EMULATOR") == "sanitized"
FOLDER = ROOT / "build" / ("sanitized" if SANITIZED else "emulated")
KERNELS = tuple(
    path
    for path in sorted((CSRC / "cuda").rglob("*"))
    if path.suffix in (".cu", ".cpp") and path.parent.name != "torch"
)
BINDINGS = tuple(sorted((CSRC / "emulator" / "bindings").glob("*.cpp")))
MODULE = CSRC / "emulator" / "bindings" / "module.cpp"
SCHEDULES = (1, 2)

# Every access and every undefined operation of a kernel is checked: by functions of the emulator, not of the compiler.
CHECKS = (
    "-fsanitize=undefined -fno-sanitize=vptr,return -fsanitize=kernel-address --param asan-stack=0 "
    "--param asan-globals=0 --param asan-instrumentation-with-call-threshold=0"
)
# Fibres leave stacks in ways that AddressSanitizer does not follow.
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all --param asan-stack=0"
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


def nvcc() -> str | None:
    """The path of nvcc."""
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def cuda_headers() -> Path | None:
    """The folder of CUDA's headers: of the toolkit, or of the packages that torch installs."""
    homes = [os.environ.get("CUDA_HOME"), nvcc() and Path(str(nvcc())).resolve().parent.parent, "/usr/local/cuda"]
    folders = [Path(home) / "include" for home in homes if home]
    folders += sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/c*/include"))
    needed = ("cuda_runtime_api.h", "cuda_bf16.h", "cuda_fp16.h", "nv/target")
    return next((folder for folder in folders if all((folder / name).exists() for name in needed)), None)


def build(name: str, kernels: tuple[Path, ...], bindings: tuple[Path, ...], *headers: Path) -> ModuleType:
    """The module that bindings make of kernels, in files of a name; only what changed is compiled again.

    Kernels find their headers in the folders `headers` first.

    The emulator itself is a library of its own: the kernels' copies of inline functions check what they access, and
    must not become its copies.
    """
    import pybind11

    includes = [f"-I{path}" for path in (CSRC / "emulator" / "include", CSRC)]
    includes += [f"-isystem{path}" for path in (cuda_headers(), pybind11.get_include(), sysconfig.get_path("include"))]
    changed = shlex.join(f"-iquote{path}" for path in headers)
    compiler = f"g++ {USUAL} {shlex.join(includes)} -MD -MF $out.d"
    everywhere = SANITIZERS if SANITIZED else ""
    linker = f"g++ {everywhere} -shared -Wl,-rpath,'$$ORIGIN'"
    runtime = sorted((CSRC / "emulator").glob("*.cpp"))
    objects = {path: ".".join(path.relative_to(ROOT).parts) + ".o" for path in (*kernels, *bindings)}
    lines = [
        "rule kernel",
        f"  command = {compiler} {changed} -O1 {SANITIZERS if SANITIZED else CHECKS} -x c++ -c $in -o $out",
        "  depfile = $out.d",
        "rule host",
        f"  command = {compiler} -O2 {everywhere} -c $in -o $out",
        "  depfile = $out.d",
        "rule module",
        f"  command = {compiler} -O0 -fvisibility=hidden -c $in -o $out",
        "  depfile = $out.d",
        "rule library",
        f"  command = {linker} -Wl,-z,defs -Wl,-Bsymbolic -Wl,-soname,$out $in -o $out",
        "rule extension",
        f"  command = {linker} $in -o $out",
        *(f"build {path.name}.o: host {path}" for path in runtime),
        f"build libemulator.so: library {' '.join(f'{path.name}.o' for path in runtime)}",
        *(f"build {objects[path]}: kernel {path}" for path in kernels),
        f"build lib{name}.so: library {' '.join(objects[path] for path in kernels)} libemulator.so",
        *(f"build {objects[path]}: module {path}" for path in bindings),
        f"build {name}.so: extension {' '.join(objects[path] for path in bindings)} lib{name}.so libemulator.so",
    ]
    run_ninja(name, lines)
    # The dotted name lets several modules of one initialising function differ.
    spec = importlib.util.spec_from_file_location(f"{name}.emulated", FOLDER / f"{name}.so")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@functools.cache
def kernels() -> ModuleType:
    """The kernels of the package."""
    return build("emulated", KERNELS, BINDINGS)


@functools.cache
def probes() -> ModuleType:
    """The kernels that test the emulator itself."""
    folder = ROOT / "tests" / "ops" / "emulated"
    return build("probes", (folder / "probes.cu", folder / "instructions.cu"), (MODULE, folder / "module.cpp"))


def run_ninja(name: str, lines: Sequence[str]) -> None:
    """Builds what the lines of a ninja file say, while no other process builds in this folder."""
    import ninja

    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (FOLDER / f"{name}.ninja").write_text("\n".join(lines) + "\n")
        command = [str(Path(ninja.BIN_DIR) / "ninja"), f"-j{len(os.sched_getaffinity(0))}", "-f", f"{name}.ninja"]
        built = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    if built.returncode:
        raise RuntimeError(f"{name} did not build:\n{built.stdout}{built.stderr}")


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
    return build(name, sources, BINDINGS)


def array(tensor: Tensor) -> tuple[int, str, list[int], list[int]]:
    """A tensor as the modules take it."""
    return tensor.data_ptr(), str(tensor.dtype).removeprefix("torch."), list(tensor.shape), list(tensor.stride())


def device(module: ModuleType, schedule: int = 1, force: str = "fused", **settings: Any) -> Any:
    """The emulated device of a module: which products are the library's, and settings such as tf32, multiprocessors."""
    made = module.Device()
    made.schedule = schedule
    made.set_force(force)
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def run(op: str, values: Sequence[Any], on: Any, module: ModuleType | None = None) -> Any:
    """An op as its CUDA binding runs it, on an emulated device: a function of its name in the module gets the device,
    the op's arguments and its results, which hold NaN.
    """
    shaped = getattr(torch.ops.fastalign, op)(*convert(values, lambda tensor: tensor.to("meta")))
    many = shaped if isinstance(shaped, (list, tuple)) else [] if shaped is None else [shaped]
    results = [torch.full(r.shape, float("nan"), dtype=r.dtype) for r in many]
    written = [array(result) for result in results]
    arguments = convert(values, array) + ([written] if isinstance(shaped, list) else written)
    with lines_of_faults():
        getattr(module or kernels(), op)(on, *arguments)
    return results[0] if isinstance(shaped, Tensor) else results


@contextlib.contextmanager
def lines_of_faults() -> Iterator[None]:
    """Says where in its source a kernel does what it must not, innermost first."""
    try:
        yield
    except RuntimeError as error:
        address = re.search(r"(\S+\.so)\+(\d+)", str(error))
        if address is None:
            raise
        command = ["addr2line", "-i", "-e", address[1], hex(int(address[2]))]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        lines = " in ".join(re.sub(r".*/| \(.*", "", line) for line in found.splitlines())
        raise RuntimeError(str(error).replace(address[0], lines)) from None


def convert(values: Sequence[Any], function: Callable[[Tensor], Any]) -> list[Any]:
    """Values with a function applied to the tensors among them and in the lists among them."""

    def one(value: Any) -> Any:
        if isinstance(value, Tensor):
            return function(value)
        if isinstance(value, list):
            return [one(v) for v in value]
        return int(value) if isinstance(value, IntEnum) else value

    return [one(value) for value in values]


def launcher(op: str, force: str = "fused") -> Callable[..., Any] | None:
    """The op on the emulator, None where that has none: the same bits in several orders of its threads.

    With products forced onto the library it runs once, and the test is skipped where it has no product for it.
    """
    if not hasattr(kernels(), op):
        return None

    def launch(*values: Any) -> Any:
        first: list[Tensor] | None = None
        schedules = SCHEDULES if force == "fused" else SCHEDULES[:1]
        for schedule in schedules:
            arguments = convert(values, Tensor.clone) if op.endswith("_") and schedule != schedules[-1] else values
            on = device(kernels(), schedule, force)
            result = run(op, arguments, on)
            if force == "library" and on.products == 0:
                pytest.skip("the library has no part in this op on these arguments")
            given = [v for a in arguments for v in (a if isinstance(a, list) else [a]) if torch.is_tensor(v)]
            written = [result] if isinstance(result, Tensor) else result or given
            if first is not None:
                for one, other in zip(first, written, strict=True):
                    assert torch.equal(bits(one), bits(other)), "other bits where the threads run in another order"
            first = written
        return result

    return launch


def fault(*message: str) -> pytest.RaisesExc[RuntimeError]:
    """What a kernel does wrong is to be reported by a message of these parts."""
    return pytest.raises(RuntimeError, match=".*".join(message))


def bits(tensor: Tensor) -> Tensor:
    """The memory of a tensor as whole numbers."""
    return tensor.flatten().contiguous().view(torch.uint8)
