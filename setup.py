"""Builds fastalign: Python with one extension on LibTorch's stable ABI, or Python alone.

What decides, in the environment:

    FASTALIGN_NATIVE      auto: build the extension where there is a C++ compiler; 1: fail without one; 0: Python alone
    FASTALIGN_CUDA        auto: build the CUDA kernels where there is nvcc; 1: fail without it; 0: leave them out;
                          machine: build them where there are nvcc and a GPU, for this machine's GPUs alone
    FASTALIGN_CUDA_ARCHS  the GPU architectures, as in "8.0 9.0+PTX" or "80;90+PTX"
    CXX, CUDA_HOME        the compilers to use
    MAX_JOBS              compilers at a time; by default as many as cores and memory allow

A build needs no GPU, and looks for one only where FASTALIGN_CUDA=machine says so. What was decided is written to
fastalign/_build.json, for `fastalign info`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
OLDEST_PYTHON = "0x030a0000"  # 3.10, as Py_LIMITED_API spells it
OLDEST_TORCH = "0x020b000000000000"  # 2.11, as TORCH_TARGET_VERSION spells it
USUAL_CUDA = "/usr/local/cuda"  # where the toolkit's installer puts it, on no PATH
DEFAULT_ARCHITECTURES = "7.5 8.0+PTX 8.6 8.9 9.0 10.0 12.0"
OLDEST_GPU = (7, 5)
NEWEST_FEATURES = 80  # of a compute capability that the kernels use: translated for once, assembled for each device
# Loops over the activations are vectorised only where these may forget errno and floating-point traps.
OPTIMISATION = ("-O3", "-fno-math-errno", "-fno-trapping-math")
WARNINGS = ("-Wall", "-Wextra", "-Wno-unused-parameter")  # torch's headers leave parameters unused
MEMORY_PER_COMPILER = 2 << 30  # bytes; what nvcc or g++ take at most on these sources, with room to spare


class Refusal(SystemExit):
    """The build cannot be what the environment asks for."""

    def __init__(self, message: str) -> None:
        super().__init__(f"fastalign: {message}")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will be built, and why not what will not."""

    compiler: str | None = None
    nvcc: str | None = None
    architectures: tuple[str, ...] = ()
    native_left_out: str | None = None
    cuda_left_out: str | None = None
    asked_for: bool = False  # Python alone because FASTALIGN_NATIVE=0 says so

    def record(self) -> dict[str, Any]:
        """The content of fastalign/_build.json."""
        return {
            "native": self.compiler is not None,
            "native_left_out": self.native_left_out,
            "asked_for": self.asked_for,
            "cuda_left_out": self.cuda_left_out,
            "compiler": self.compiler and first_line([*shlex.split(self.compiler), "--version"]),
            "nvcc": self.nvcc and release(self.nvcc),
            "torch": self.compiler and torch_version(),
        }


def make_plan() -> Plan:
    """Decides by what the environment asks for and what the machine has."""
    native, cuda = choice("FASTALIGN_NATIVE"), choice("FASTALIGN_CUDA", "machine")
    if native == "0":
        if cuda == "1":
            raise Refusal("FASTALIGN_CUDA=1 asks for CUDA kernels, FASTALIGN_NATIVE=0 for none; set one of them")
        return Plan(native_left_out="it was built with FASTALIGN_NATIVE=0", asked_for=True)
    compiler, missing = find_compiler()
    if compiler is None or missing:
        if "1" in (native, cuda):
            raise Refusal(f"{missing}, but FASTALIGN_{'NATIVE' if native == '1' else 'CUDA'}=1 asks for the extension")
        return Plan(native_left_out=f"when it was built, {missing}")
    if cuda == "0":
        return Plan(compiler, cuda_left_out="it was built with FASTALIGN_CUDA=0")
    gpus = gpus_of_this_machine() if cuda == "machine" else []
    if cuda == "machine" and not gpus:
        oldest = ".".join(map(str, OLDEST_GPU))
        return Plan(compiler, cuda_left_out=f"the build found no GPU of compute capability {oldest} or newer")
    nvcc = find_nvcc()
    if nvcc is None:
        if cuda == "1":
            raise Refusal(
                "FASTALIGN_CUDA=1 asks for CUDA kernels, but nvcc was found neither in $CUDA_HOME/bin, nor on PATH, "
                f"nor in {USUAL_CUDA}/bin; install the CUDA toolkit or set CUDA_HOME"
            )
        return Plan(compiler, cuda_left_out="the build found no nvcc")
    return Plan(compiler, nvcc, cuda_architectures(nvcc, gpus))


def choice(name: str, *others: str) -> str:
    """Return the value of an environment variable that is auto, 0, 1 or one of the others."""
    value, choices = os.environ.get(name, "auto"), ("auto", "0", *others, "1")
    if value not in choices:
        raise Refusal(f"{name}: expected {', '.join(choices[:-1])} or {choices[-1]}, got {value!r}")
    return value


def find_compiler() -> tuple[str | None, str | None]:
    """The C++ compiler's command, and what is missing to compile an extension with it."""
    asked = os.environ.get("CXX")
    if asked:
        if shutil.which(shlex.split(asked)[0]) is None:
            raise Refusal(f"CXX: {asked!r} was not found")
        compiler: str | None = asked
    else:
        compiler = next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        return None, "there was no C++ compiler (c++, g++ or clang++)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return compiler, "there was no Python.h (package python3-dev or python3-devel)"
    return compiler, None


def find_nvcc() -> str | None:
    """The path of nvcc."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    folders = [f"{home}/bin"] if home else []
    folders += [os.environ.get("PATH", os.defpath), f"{USUAL_CUDA}/bin"]
    return next(filter(None, (shutil.which("nvcc", path=folder) for folder in folders)), None)


def gpus_of_this_machine() -> list[str]:
    """Return the compute capabilities of this machine's GPUs that can run the kernels, as in 9.0."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        found = set(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split())
    except (OSError, subprocess.CalledProcessError):
        return []
    return sorted(name for name in found if tuple(map(int, name.split("."))) >= OLDEST_GPU)


def cuda_architectures(nvcc: str, gpus: list[str]) -> tuple[str, ...]:
    """Return the targets that this nvcc knows, as in sm_80 or compute_90 (PTX).

    They are what FASTALIGN_CUDA_ARCHS asks for, else the GPUs', else the default.
    """
    asked = os.environ.get("FASTALIGN_CUDA_ARCHS", "").strip()
    known = set(run([nvcc, "--list-gpu-code"]).split() + run([nvcc, "--list-gpu-arch"]).split())
    targets: list[str] = []
    for name in re.split(r"[\s;,]+", asked or " ".join(gpus) or DEFAULT_ARCHITECTURES):
        match = re.fullmatch(r"(\d+)\.?(\d)([af]?)(\+PTX)?", name)
        if match is None:
            raise Refusal(f"FASTALIGN_CUDA_ARCHS: expected names like 8.0, 90a or 12.0+PTX, got {name!r}")
        number = "".join(match.groups("")[:2])
        if f"sm_{number}" in known:
            targets += [f"sm_{number}{match[3]}"] + [f"compute_{number}{match[3]}"] * bool(match[4])
        elif asked:
            raise Refusal(
                f"FASTALIGN_CUDA_ARCHS: {nvcc} does not know sm_{number}; it knows {', '.join(sorted(known))}"
            )
    if gpus and not targets:
        return cuda_architectures(nvcc, [])  # A GPU that is newer than nvcc runs the default's PTX.
    if not targets:
        raise Refusal(f"{nvcc} knows none of the architectures {DEFAULT_ARCHITECTURES}; set FASTALIGN_CUDA_ARCHS")
    return tuple(targets)


def run(command: list[str]) -> str:
    """What a command prints, if it succeeds."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise Refusal(f"{shlex.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def first_line(command: list[str]) -> str:
    """The first line that a command prints."""
    return (run(command).splitlines() or [""])[0]


def release(nvcc: str) -> str:
    """The release of nvcc, as in 13.0."""
    match = re.search(r"release (\d+\.\d+)", run([nvcc, "--version"]))
    if match is None:
        raise Refusal(f"{nvcc} --version names no release")
    return match[1]


def torch_version() -> str:
    """The version of the torch that the extension is built against."""
    try:
        import torch
    except ImportError as error:
        raise Refusal(
            f"the extension is built against torch, which cannot be imported here ({error}); install torch first, "
            "build with pip's isolation (without --no-build-isolation), or leave the extension out (FASTALIGN_NATIVE=0)"
        ) from error
    return str(torch.__version__)


def jobs() -> int:
    """How many compilers may run at a time."""
    asked = os.environ.get("MAX_JOBS", "")
    if asked:
        if not asked.isdigit() or int(asked) < 1:
            raise Refusal(f"MAX_JOBS: expected a number of at least 1, got {asked!r}")
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, available_memory() // MEMORY_PER_COMPILER))


def available_memory() -> int:
    """Bytes of memory to build in: the machine's, or what a control group leaves of them."""
    bounds = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.exists():
        bounds += [int(kib) << 10 for kib in re.findall(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())]
    if limit.exists() and limit.read_text().strip().isdigit():
        used = Path("/sys/fs/cgroup/memory.current")
        bounds.append(int(limit.read_text()) - (int(used.read_text()) if used.exists() else 0))
    return min(bounds)


def find_ninja() -> str:
    """Return the path of ninja, also where it was installed into an environment that is not the active one."""
    try:
        import ninja

        folders = [ninja.BIN_DIR]
    except ImportError:
        folders = []
    found = shutil.which("ninja", path=os.pathsep.join((*folders, os.environ.get("PATH", os.defpath))))
    if found is None:
        raise Refusal("the extension is built by ninja, which was not found; pip install ninja")
    return found


def extension(plan: Plan) -> Extension:
    """Return the one extension, fastalign._C."""
    link = ["-Wl,--as-needed"] if sys.platform == "linux" else []
    if plan.nvcc:
        # The archive's symbols stay out of sight, so that torch's own CUDA runtime and this one never mix.
        link += [f"-L{path}" for path in cuda_library_folders(plan.nvcc)]
        link += ["-lcudart_static", "-ldl", "-lrt", "-lpthread", "-Wl,--exclude-libs,libcudart_static.a"]
    return Extension(
        "fastalign._C",
        sources(plan),
        libraries=["c10", "torch", "torch_cpu"],
        extra_link_args=link,
        language="c++",
        py_limited_api=True,
    )


def sources(plan: Plan) -> list[str]:
    """Return the source files, those that take longest first, so that no compiler runs alone at the end."""
    patterns = ["cuda/**/*.cu", "cuda/**/*.cpp"] if plan.nvcc else []
    patterns = [*patterns[:1], "cpu/kernels/*.cpp", *patterns[1:], "cpu/**/*.cpp", "python/*.cpp"]
    found = (path for pattern in patterns for path in sorted(CSRC.glob(pattern)))
    return list(dict.fromkeys(str(path.relative_to(ROOT)) for path in found))


def compile_sources(plan: Plan, compiler: list[str], folders: list[str], build: Path) -> list[str]:
    """Compile the sources into a folder by ninja, only those that changed, and return the object files.

    compiler: the C++ compiler with Python's own flags; folders: where it finds the headers of Python and torch.
    """
    includes = [f"-I{folder}" for folder in (CSRC, *folders)]
    macros = [f"-DPy_LIMITED_API={OLDEST_PYTHON}", f"-DTORCH_TARGET_VERSION={OLDEST_TORCH}"]
    flags = ["-std=c++20", *OPTIMISATION, "-g0", "-fvisibility=hidden", *WARNINGS, *macros, *includes]
    lines = [f"builddir = {ninja_path(str(build))}", *ninja_rule("cxx", [*compiler, *flags], "$macros")]
    if plan.nvcc:
        lines += ninja_rule("nvcc", [plan.nvcc, *nvcc_flags(plan, plan.nvcc)])
    files = sources(plan)
    objects = [str(build / f"{file}.o") for file in files]
    for file, output in zip(files, objects, strict=True):
        lines.append(f"build {ninja_path(output)}: {'nvcc' if file.endswith('.cu') else 'cxx'} {file}")
        if plan.nvcc and file == "csrc/python/module.cpp":
            lines.append(f"  macros = '-DFASTALIGN_CUDA_ARCHITECTURES=\"{' '.join(plan.architectures)}\"'")
    build.mkdir(parents=True, exist_ok=True)
    (build / "build.ninja").write_text("\n".join(lines) + "\n")
    print(f"fastalign: compiling what changed in csrc, up to {jobs()} files at a time", flush=True)
    command = [find_ninja(), "-f", str(build / "build.ninja"), f"-j{jobs()}"]
    environment = {**os.environ, "NINJA_STATUS": "compiling %f/%t "}
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        raise Refusal("the extension does not compile; the compiler's message is above")
    return objects


def ninja_rule(name: str, command: list[str], *more: str) -> list[str]:
    """Return the lines of a rule by which ninja compiles a file, and learns on which headers it depends."""
    line = " ".join((shlex.join(command).replace("$", "$$"), *more))
    compile_one = f"  command = {line} -MD -MF $out.d -c $in -o $out"
    return [f"rule {name}", compile_one, "  description = $in", "  depfile = $out.d", "  deps = gcc"]


def ninja_path(path: str) -> str:
    """A path as ninja's language spells it."""
    return re.sub(r"([$ :])", r"$\1", path)


def nvcc_flags(plan: Plan, nvcc: str) -> list[str]:
    """Return the flags by which nvcc compiles the kernels for the plan's architectures."""
    flags = ["-std=c++17", "-O3", f"-I{CSRC}", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
    if tuple(map(int, release(nvcc).split("."))) >= (12, 8):
        flags.append("--compress-mode=size")
    return flags + [f"-gencode=arch={features(target)},code={target}" for target in plan.architectures]


def features(target: str) -> str:
    """What the code for a target may use: compute_80 for sm_80 and sm_90, compute_90a for sm_90a."""
    number = target.removeprefix("sm_")
    if number.isdigit() and int(number) > NEWEST_FEATURES:
        return f"compute_{NEWEST_FEATURES}"
    return target.replace("sm_", "compute_")


def cuda_library_folders(nvcc: str) -> list[str]:
    """Where the toolkit of an nvcc keeps its libraries."""
    home = Path(nvcc).resolve().parent.parent
    steps = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False
    ).stderr
    named = re.findall(r'"-L([^"]+)"', steps)
    folders = [Path(name) for name in named if not name.endswith("stubs")] + [home / "lib64", home / "lib"]
    return [str(folder.resolve()) for folder in folders if (folder / "libcudart_static.a").exists()]


def commands(plan: Plan) -> dict[str, type]:
    """The setuptools commands that carry out a plan."""

    class BuildPython(build_py):
        """Adds the build record, and keeps modules that no longer exist out of a wheel."""

        def run(self) -> None:
            package = ROOT / "fastalign" if self.editable_mode else Path(self.build_lib) / "fastalign"
            if not self.editable_mode:
                shutil.rmtree(package, ignore_errors=True)
            super().run()
            package.mkdir(parents=True, exist_ok=True)
            (package / "_build.json").write_text(json.dumps(plan.record(), indent=2) + "\n")

    class BuildNative(build_ext):
        """Builds the extension in a folder that is kept, so that the next build compiles only what changed."""

        def finalize_options(self) -> None:
            super().finalize_options()
            self.build_temp = str(ROOT / "build" / "native")
            self.force = True

        def build_extension(self, ext: Extension) -> None:
            torch_version()
            from torch.utils.cpp_extension import include_paths, library_paths

            if plan.cuda_left_out:
                how = "FASTALIGN_CUDA=1 builds them wherever there is nvcc"
                print(f"fastalign: no CUDA kernels, as {plan.cuda_left_out}; {how}", flush=True)
            folders = [*self.compiler.include_dirs, *include_paths()]
            ext.extra_objects = compile_sources(plan, self.compiler.compiler_so_cxx, folders, Path(self.build_temp))
            ext.sources = []  # They are compiled: what is left to do is to link.
            ext.library_dirs = library_paths()
            super().build_extension(ext)

        def run(self) -> None:
            super().run()
            if self.inplace:
                (ROOT / "fastalign" / "_build.json").write_text(json.dumps(plan.record(), indent=2) + "\n")

    return {"build_py": BuildPython, "build_ext": BuildNative}


def main() -> None:
    """Makes a plan and lets setuptools carry it out."""
    plan = make_plan()
    if plan.compiler is not None:
        os.environ["CXX"] = plan.compiler
    elif not plan.asked_for:
        print(f"fastalign: installed without its extension, as {plan.native_left_out}", file=sys.stderr)
    setup(
        ext_modules=[extension(plan)] if plan.compiler else [],
        cmdclass=commands(plan),
        options={"bdist_wheel": {"py_limited_api": "cp310"}} if plan.compiler else {},
    )


if __name__ == "__main__":
    main()
