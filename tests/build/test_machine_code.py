"""The gate on the machine code of CUDA kernels: that it passes, and that it can fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

import machine_code
import pytest
from machine_code import Build, Kernel, faults

from fastalign.ops import native

# Of which one has too few registers, one an array that is indexed at run time, one too little of everything else.
KERNELS = """
#include <cuda_fp16.h>
__global__ void __launch_bounds__(128, 2) copy(const float4* from, float4* to) {
  to[blockIdx.x * 128 + threadIdx.x] = from[blockIdx.x * 128 + threadIdx.x];
}
__global__ void __launch_bounds__(128, 2) indexed(const float4* from, float* to, int index) {
  float values[64];
  for (int i = 0; i < 64; ++i) values[i] = from[i * 128 + threadIdx.x].x;
  values[index] = 0;
  float sum = 0;
  for (int i = 0; i < 64; ++i) sum += values[i] * values[(i * index) % 64];
  to[threadIdx.x] = sum;
}
__global__ void __launch_bounds__(1024, 2) spilling(const float4* from, float4* to) {
  float4 values[32];
  for (int i = 0; i < 32; ++i) values[i] = from[i * 1024 + threadIdx.x];
  __syncthreads();
  for (int i = 0; i < 32; ++i) to[(31 - i) * 1024 + threadIdx.x] = values[i];
}
__global__ void __launch_bounds__(256) wide(const float* from, float* to) {
  __shared__ float values[12000];
  for (int i = threadIdx.x; i < 12000; i += 256) values[i] = from[i];
  __syncthreads();
  for (int i = threadIdx.x; i < 12000; i += 256) to[i] = values[11999 - i];
}
__global__ void unbounded(const float4* from, float4* to) { to[threadIdx.x] = from[threadIdx.x]; }
"""


@pytest.fixture(scope="module")
def tools() -> None:
    why = machine_code.missing()
    if why is not None:
        pytest.skip(why)


@pytest.mark.usefixtures("tools")
def test_the_binary_passes() -> None:
    if native.module is None or not set(machine_code.GATED) <= set(native.module.cuda_architectures()):
        pytest.skip("the binary does not hold CUDA kernels for the architectures that are looked at")
    kernels = machine_code.read(Path(str(native.module.__file__)))
    assert faults(kernels) == []
    assert any(kernel.uses_tensor_cores for kernel in kernels)
    assert all(kernel.dynamic_shared > 0 for kernel in kernels if kernel.uses_tensor_cores)


@pytest.fixture(scope="module")
def found(tools: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels.cu").write_text(KERNELS)
    targets = [f"-gencode=arch=compute_{n},code=[sm_{n},compute_{n}]" for n in (80, 90)]
    command = ["nvcc", "-fatbin", *targets, "-o", str(folder / "kernels.fatbin"), str(folder / "kernels.cu")]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no nvcc on the PATH")
    return "\n".join(faults(machine_code.read(folder / "kernels.fatbin")))


@pytest.mark.parametrize(
    "fault",
    [
        "spilling on sm_80: it spills",
        "spilling on sm_90: it has the instruction STL",
        "spilling on sm_90: it has the instruction LDL",
        "indexed on sm_80: it spills, or has 256 bytes of stack",
        "wide on sm_80: it has no 128-bit load",
        "unbounded: it does not say by __launch_bounds__",
    ],
)
def test_kernels_that_must_fail(found: str, fault: str) -> None:
    assert fault in found


def test_kernel_that_must_pass(found: str) -> None:
    assert "copy" not in found


def kernel(**changes: int) -> Kernel:
    values = {"registers": 128, "static_shared": 0, "dynamic_shared": 0, "threads": 128, **changes}
    build = Build(values["registers"], 0, values["static_shared"], {"LDG.E.128", "HMMA.16816.F32", "LDGSTS.E.128"})
    builds = dict.fromkeys(machine_code.GATED, build)
    return Kernel("kernel", True, values["threads"], values["dynamic_shared"], builds)


@pytest.mark.parametrize(
    ("changes", "blocks"),
    [
        ({}, (4, 4)),  # 128 registers × 128 threads of 65536
        ({"registers": 129}, (3, 3)),  # which are given out by eights
        ({"registers": 255}, (2, 2)),
        ({"registers": 32, "dynamic_shared": 48 << 10}, (3, 4)),
        ({"registers": 32, "static_shared": 40 << 10, "dynamic_shared": 74 << 10}, (1, 1)),
        ({"registers": 32, "dynamic_shared": 81 << 10}, (2, 2)),
        ({"registers": 32, "dynamic_shared": 82 << 10}, (1, 2)),
        ({"registers": 32, "threads": 1024}, (2, 2)),
        ({"registers": 16, "threads": 32}, (32, 32)),
    ],
)
def test_blocks_of_a_multiprocessor(changes: dict[str, int], blocks: tuple[int, int]) -> None:
    assert tuple(kernel(**changes).blocks(architecture) for architecture in machine_code.GATED) == blocks
    assert any("blocks" in fault for fault in faults([kernel(**changes)])) == (min(blocks) < 2)


def test_shared_memory_is_what_a_launch_gets() -> None:
    """A launch asks for more than usual where it has a dynamic part, and no device is asked for more than it has."""
    for most in ({"static_shared": 48 << 10}, {"static_shared": 40 << 10, "dynamic_shared": 24 << 10}):
        assert faults([kernel(registers=32, **most)]) == []
        beyond = kernel(registers=32, **{**most, "static_shared": most["static_shared"] + 4})
        assert all("bytes of shared memory, expected at most" in fault for fault in faults([beyond]))
        assert faults([beyond])


def test_tensor_cores_must_be_used() -> None:
    without = kernel()
    for build in without.builds.values():
        build.instructions = {"LDG.E.128", "FFMA"}
    assert [fault.split(": ")[1] for fault in faults([without])][:2] == [
        "it lacks the instruction HMMA",
        "it lacks the instruction LDGSTS",
    ]


def test_there_may_be_sixty_kernels() -> None:
    assert faults([kernel()] * 60) == []
    assert faults([kernel()] * 61) == ["61 kernels, expected at most 60"]
