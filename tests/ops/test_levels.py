"""The instruction-set levels of the CPU kernels: each is forced, each is whole, none shares code with another."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cases import needs_native

from fastalign.ops import native

pytestmark = pytest.mark.skipif(bool(needs_native), reason=needs_native)

LEVELS: tuple[str, ...] = native.module.cpu_levels() if native.module is not None else ()


def supported(level: str) -> bool:
    """Whether this machine has a level: as the kernel lists the processor's flags."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    needed = {"baseline": (), "avx2": ("avx2", "fma"), "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl")}
    needed["amx"] = (*needed["avx512"], "avx512_bf16", "amx_tile", "amx_bf16")
    return all(re.search(rf"\b{flag}\b", flags) for flag in needed[level])


def forced(level: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FASTALIGN_CPU_CAPABILITY": level, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("marked", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("level", LEVELS)
def test_level(level: str, marked: str) -> None:
    """The tests of the kernels pass on the level, or the machine lacks it and that is said."""
    if not supported(level):
        assert f"this machine has no {level}" in forced(level, "-c", "import fastalign.ops").stderr
        pytest.skip(f"this machine has no {level}")
    shown = forced(level, "-c", "from fastalign.ops import native; print(native.module.cpu_level())")
    assert shown.stdout == f"{level}\n", shown.stderr
    assert native.module is not None
    if level == native.module.cpu_level():
        return  # the tests beside this one run on it
    names = ("kernels", "activations", "cross_entropy", "random", "bounds")
    tests = [str(Path(__file__).with_name(f"test_{name}.py")) for name in names]
    chosen = "not layout and not emulated and not launch"
    result = forced(level, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen, "-m", marked, *tests)
    assert result.returncode == 0, result.stdout[-3000:]


def test_highest_level_is_chosen() -> None:
    if "FASTALIGN_CPU_CAPABILITY" not in os.environ and native.module is not None:
        assert native.module.cpu_level() == [level for level in LEVELS if supported(level)][-1]


def test_levels_share_no_code() -> None:
    """A weak symbol of one level's instructions could be linked into every other; each is in its level's namespace."""
    assert native.module is not None
    sources = Path(__file__).parents[2] / "csrc"
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there was no C++ compiler")
    for level in LEVELS:
        command = [
            compiler,
            "-std=c++20",
            "-O0",
            f"-I{sources}",
            "-S",
            "-o",
            "-",
            str(sources / f"cpu/kernels/level_{level}.cpp"),
        ]
        assembly = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        weak = re.findall(r"\.weak\w*\s+(\S+)", assembly)
        assert weak  # unoptimised, the activations are functions
        strangers = [symbol for symbol in weak if f"{len(level)}{level}" not in symbol]
        assert not strangers
