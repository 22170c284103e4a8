"""The known answers of the instructions, on the device: those that the emulator is held to."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import emulator
import instructions
import pytest
import torch
from torch import Tensor

SOURCE = """
#include "instructions.h"
extern "C" void run(const char* name, const uint32_t* input, uint32_t* output) {
  fastalign::instruction(name, input, output, nullptr);
}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Tensor, int], Tensor]:
    nvcc = emulator.nvcc()
    if nvcc is None:
        pytest.skip("there is no nvcc to compile the instructions' kernels")
    folder = tmp_path_factory.mktemp("instructions")
    (folder / "run.cu").write_text(SOURCE)
    sources = Path(emulator.__file__).parent / "emulated"
    architecture = "sm_{}{}".format(*torch.cuda.get_device_capability())
    library = folder / "instructions.so"
    flags = ["-std=c++17", f"-arch={architecture}", f"-I{emulator.CSRC}", f"-I{sources}", "-shared", "-Xcompiler=-fPIC"]
    command = [nvcc, *flags, str(sources / "instructions.cu"), str(folder / "run.cu"), "-o", str(library)]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(library)).run

    def run(name: str, words: Tensor, number: int) -> Tensor:
        given = words.contiguous().cuda()
        result = torch.full((number,), -1, dtype=torch.int32, device="cuda")
        torch.cuda.synchronize()
        function(name.encode(), ctypes.c_void_p(given.data_ptr()), ctypes.c_void_p(result.data_ptr()))
        torch.cuda.synchronize()
        return result.cpu()

    return run


@pytest.mark.parametrize("name", instructions.ANSWERS)
def test_known_answers(name: str, run: Callable[[str, Tensor, int], Tensor]) -> None:
    instructions.check(name, run)
