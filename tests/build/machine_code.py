"""What the compiler made of the CUDA kernels: a table of them, and what is wrong with them.

    python machine_code.py _C.abi3.so [--table kernels.md [--write]]

Reads a binary by CUDA's cuobjdump and nvdisasm, which Triton's wheel brings too. Ends with an error where a kernel
spills, leaves room for fewer than two blocks on a multiprocessor or lacks the instructions that it was written for,
where there are too many kernels or bytes, and where the table between the markers of a file is not the current one.
"""

from __future__ import annotations

import argparse
import functools
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"
BEGIN, END = "<!-- kernels: begin -->", "<!-- kernels: end -->"
MOST_KERNELS = 60
MOST_BYTES = 20 << 20
LEAST_BLOCKS = 2
GATED = ("sm_80", "sm_90")
TENSOR_CORES = ("tf32", "bfloat16", "float16")
# Whose windows and rows begin anywhere: neighbouring threads read neighbouring elements.
ELEMENT_BY_ELEMENT = ("pooling", "cross_entropy")
SHARED_MEMORY = {"sm_80": 164 << 10, "sm_90": 228 << 10}  # bytes of a multiprocessor
RESERVED = 1 << 10  # bytes of shared memory that the system takes of each block
# Bytes of shared memory of a block, static and dynamic: what the least device (sm_75) gives to those that ask, as every
# launch with a dynamic part does; and to those that do not.
MOST_SHARED, MOST_UNASKED = 64 << 10, 48 << 10
REGISTERS = 64 << 10  # of a multiprocessor
WARPS = 64


@dataclass
class Build:
    """A kernel as compiled for one architecture."""

    registers: int  # of a thread
    stack: int  # bytes
    static_shared: int  # bytes
    instructions: set[str] = field(default_factory=set)


@dataclass
class Kernel:
    """A kernel: its threads and dynamic shared memory in bytes as launched, and its builds by architecture."""

    name: str
    uses_tensor_cores: bool = False
    threads: int = 0
    dynamic_shared: int = 0
    builds: dict[str, Build] = field(default_factory=dict)

    def blocks(self, architecture: str) -> int:
        """How many blocks a multiprocessor holds at a time."""
        build = self.builds[architecture]
        warps = -(-self.threads // 32)
        registers_of_warp = -(-build.registers * 32 // 256) * 256
        shared = -(-(build.static_shared + self.dynamic_shared + RESERVED) // 128) * 128
        by_registers = REGISTERS // registers_of_warp // warps
        return min(by_registers, SHARED_MEMORY[architecture] // shared, WARPS // warps, 32)


def missing() -> str | None:
    """Why machine code cannot be read here, None where it can."""
    for tool in ("cuobjdump", "nvdisasm", "c++filt"):
        if shutil.which(tool) is None:
            return f"there is no {tool} on the PATH"
    return None


def run(*command: str, text: str | None = None) -> str:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def read(binary: Path) -> list[Kernel]:
    """The kernels of a binary, by name."""
    kernels: dict[str, Kernel] = {}
    architecture = name = ""
    for line in run("cuobjdump", "-res-usage", str(binary)).splitlines():
        if match := re.match(r"arch = (\S+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            name = match[1]
        elif match := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            # From sm_90 on a kernel with shared memory counts in what the system takes.
            static = shared - (RESERVED if shared and int(architecture.removeprefix("sm_")) >= 90 else 0)
            kernel = kernels.setdefault(name, Kernel(name))
            kernel.builds[architecture] = Build(registers, stack + local, static)
    for line in run("cuobjdump", "-ptx", str(binary)).splitlines():
        if match := re.match(r"(?:\.visible )?\.entry (\w+)\(", line):
            name = match[1]
        elif match := re.match(r"\.maxntid (\d+)(?:, (\d+), (\d+))?", line):
            kernels[name].threads = int(match[1]) * int(match[2] or 1) * int(match[3] or 1)
        elif match := re.search(r"dynamic_shared_memory_(\d+)", line):
            kernels[name].dynamic_shared = max(int(match[1]), kernels[name].dynamic_shared)
    for architecture in GATED:
        for line in run("cuobjdump", "-sass", "-arch", architecture, str(binary)).splitlines():
            if match := re.match(r"\s*Function : (\S+)", line):
                name = match[1]
            elif match := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+ )?([A-Z][\w.]*)", line):
                kernels[name].builds[architecture].instructions.add(match[1])
    names = run("c++filt", text="\n".join(kernels)).splitlines()
    for kernel, full in zip(kernels.values(), names, strict=True):
        kernel.name = readable(full)
        arithmetic = re.search(r"<(\w+)", kernel.name) if "::Arithmetic)" in full else None
        kernel.uses_tensor_cores = arithmetic is not None and arithmetic[1] in TENSOR_CORES
    return sorted(kernels.values(), key=lambda kernel: kernel.name)


def readable(name: str) -> str:
    """A kernel's name as the sources spell it, without namespaces and parameters."""
    name = re.sub(r"\((fastalign::[\w:]+)\)(\d+)", lambda match: enumerator(match[1], int(match[2])), name)
    match = re.search(r"(\w+?)(?:_kernel)?(<.*?>)?\(", name.replace("(anonymous namespace)::", ""))
    assert match is not None, name
    return match[1] + re.sub(r"\w+::|__nv_", "", match[2] or "").replace("__half", "float16")


@functools.cache
def enumerator(enumeration: str, number: int) -> str:
    """The name of a value of an enumeration, found in the sources."""
    *outer, name = enumeration.split("::")
    within = rf"struct {outer[-1]} {{.*?" if outer[-1] not in ("fastalign", "cuda") else ""
    for header in sorted(CSRC.rglob("*.h")):
        if match := re.search(rf"{within}enum class {name} {{(.*?)}}", header.read_text(), re.DOTALL):
            return re.findall(r"(\w+)\s*(?:,|$)", re.sub(r"//.*", "", match[1]).strip())[number]
    raise LookupError(f"{enumeration} was not found in the sources")


def faults(kernels: list[Kernel]) -> list[str]:
    """What is wrong with kernels."""
    found = []
    if len(kernels) > MOST_KERNELS:
        found.append(f"{len(kernels)} kernels, expected at most {MOST_KERNELS}")
    for kernel in kernels:
        if not kernel.threads:
            found.append(f"{kernel.name}: it does not say by __launch_bounds__ how many threads it has")
            continue
        found += [
            f"{kernel.name} on {architecture}: it spills, or has {build.stack} bytes of stack"
            for architecture, build in kernel.builds.items()
            if build.stack
        ]
        for architecture in GATED:
            found += [f"{kernel.name} on {architecture}: {fault}" for fault in faults_on(kernel, architecture)]
    return found


def faults_on(kernel: Kernel, architecture: str) -> list[str]:
    """What is wrong with a kernel on one architecture."""
    if architecture not in kernel.builds:
        return ["it was not compiled"]
    instructions = kernel.builds[architecture].instructions

    def has(*parts: str) -> bool:
        return any(all(part in name.split(".") for part in parts) for name in instructions)

    found = [f"it has the instruction {name}" for name in ("LDL", "STL") if has(name)]
    by_element = kernel.name.split("<")[0] in ELEMENT_BY_ELEMENT
    if not by_element and not has("LDG", "128") and not has("LDGSTS", "128"):
        found.append("it has no 128-bit load")
    if kernel.uses_tensor_cores:
        found += [f"it lacks the instruction {name}" for name in ("HMMA", "LDGSTS") if not has(name)]
    shared = kernel.builds[architecture].static_shared + kernel.dynamic_shared
    most = MOST_SHARED if kernel.dynamic_shared else MOST_UNASKED
    if shared > most:
        found.append(f"{shared} bytes of shared memory, expected at most {most}")
    if kernel.blocks(architecture) < LEAST_BLOCKS:
        found.append(f"{kernel.blocks(architecture)} blocks on a multiprocessor, expected at least {LEAST_BLOCKS}")
    return found


def table(kernels: list[Kernel]) -> str:
    """The kernels as a table of Markdown."""
    lines = [
        "| kernel | threads | registers sm_80 | sm_90 | shared memory, bytes | blocks a multiprocessor sm_80 | sm_90 |",
        "|---|---|---|---|---|---|---|",
    ]
    for kernel in kernels:
        registers = [kernel.builds[architecture].registers for architecture in GATED]
        shared = kernel.builds[GATED[0]].static_shared + kernel.dynamic_shared
        blocks = [kernel.blocks(architecture) for architecture in GATED]
        values = [f"`{kernel.name}`", kernel.threads, *registers, shared, *blocks]
        lines.append(f"| {' | '.join(map(str, values))} |")
    return "\n".join(lines)


def main() -> None:
    """Checks, and writes, what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--table", type=Path, help="a file with the table between markers")
    parser.add_argument("--write", action="store_true", help="bring that table up to date")
    options = parser.parse_args()
    if why := missing():
        sys.exit(f"machine_code: {why}; Triton's wheel has CUDA's tools in triton/backends/nvidia/bin")
    kernels = read(options.binary)
    print(table(kernels))
    found = faults(kernels)
    size = options.binary.stat().st_size
    print(f"{len(kernels)} kernels, {size / 2**20:.1f} MB")
    if size > MOST_BYTES:
        found.append(f"the binary has {size} bytes, expected at most {MOST_BYTES}")
    if options.table is not None:
        text = options.table.read_text()
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        current = f"{before}{BEGIN}\n{table(kernels)}\n{END}{after}"
        if options.write:
            options.table.write_text(current)
        elif current != text:
            found.append(f"{options.table}: its table is not that of the binary; `make kernels` writes it")
    if found:
        sys.exit("machine_code:\n" + "\n".join(found))


if __name__ == "__main__":
    main()
