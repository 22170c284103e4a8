"""The emulated instructions: against the PTX manual's tables, and what they report."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import emulator
import instructions
import pytest
import torch
from emulator import fault
from torch import Tensor

MISSING = emulator.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
SCHEDULES = range(3)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", instructions.ANSWERS)
def test_known_answers(name: str, schedule: int) -> None:
    def run(name: str, words: Tensor, number: int) -> Tensor:
        result = torch.full((number,), -1, dtype=torch.int32)
        arrays = [emulator.array(memory.view(torch.float32)) for memory in (words, result)]
        with emulator.lines_of_faults():
            emulator.probes().instruction(emulator.device(emulator.probes(), schedule), name, *arrays)
        return result

    instructions.check(name, run)


def test_known_answers_can_be_wrong() -> None:
    for name in instructions.ANSWERS:
        with pytest.raises(AssertionError, match="other words"):
            instructions.check(name, lambda _name, _words, number: torch.full((number,), 7, dtype=torch.int32))


def test_tables_name_every_element_once() -> None:
    for table, each, shape in (
        (instructions.fragment_of_a, 8, (16, 16)),
        (instructions.fragment_of_b, 4, (16, 8)),
        (instructions.fragment_of_a_tf32, 4, (16, 8)),
        (instructions.fragment_of_b_tf32, 2, (8, 8)),
        (instructions.fragment_of_d, 4, (16, 8)),
    ):
        named = {table(lane, i) for lane in range(32) for i in range(each)}
        assert named == {(row, column) for row in range(shape[0]) for column in range(shape[1])}


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("copy", 0, None),
        ("copy", 1, "a read of byte .* of static shared memory, which a copy may still write at probes.cu"),
        ("copy", 2, "static shared memory, which (a copy may|.* since the last barrier)"),
        ("copy", 3, "a write of byte .* of static shared memory, which a copy may still write at probes.cu"),
        ("copy", 4, "static shared memory, which .* since the last barrier"),
        ("copy", 5, "a read of byte .* of static shared memory, which a copy may still write at probes.cu"),
        ("copy of bytes", 4, None),
        ("copy of bytes", -1, "cp.async of 16 bytes, -1 of them read, at probes.cu"),
        ("copy of bytes", 17, "cp.async of 16 bytes, 17 of them read, at probes.cu"),
        ("copy to", 16, None),
        ("copy to", 8, "cp.async by a misaligned address, 8 bytes after a multiple of 16 at probes.cu"),
        ("copy to", 1 << 20, "cp.async outside shared memory"),
        ("copy from", 16, None),
        ("copy from", 4, "cp.async by a misaligned address, 4 bytes after a multiple of 16 at probes.cu"),
        ("copy from", 4 * 4096 - 16, None),
        ("copy from", 4 * 4096, "cp.async reads 16 bytes of global memory, 0 bytes after the end of result"),
        ("matrix row", 0, None),
        ("matrix row", 8, "ldmatrix by a misaligned address, 8 bytes after a multiple of 16 at probes.cu"),
        ("matrix row", 1 << 20, "ldmatrix outside shared memory"),
        ("matrix of a missing lane", 0, "deadlock.* 31 threads, .* wait at ldmatrix probes.cu"),
        ("product of a missing lane", 0, "deadlock.* 31 threads, .* wait at mma probes.cu"),
        ("matrix without a barrier", 0, "static shared memory, which .* since the last barrier at probes.cu"),
        ("lanes in order", 0, None),
        ("lanes in order", 1, "static shared memory, which thread .* since the last barrier at probes.cu"),
    ],
)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_faults(name: str, argument: int, message: str | None, schedule: int) -> None:
    result = torch.zeros(4096)

    def run() -> None:
        with emulator.lines_of_faults():
            device = emulator.device(emulator.probes(), schedule)
            emulator.probes().probe(device, name, emulator.array(result), argument, True)

    with contextlib.nullcontext() if message is None else fault(message):
        run()


@pytest.mark.skipif(emulator.nvcc() is None, reason="there was no nvcc to compile the probes for a device")
@pytest.mark.parametrize(
    ("source", "architecture"), [("instructions.cu", "sm_75"), ("instructions.cu", "sm_80"), ("probes.cu", "sm_80")]
)
def test_probes_compile_for_a_device(source: str, architecture: str, tmp_path: Path) -> None:
    path = Path(__file__).parent / "emulated" / source
    command = [str(emulator.nvcc()), "-std=c++17", f"-I{emulator.CSRC}", f"-arch={architecture}", "-c", str(path)]
    subprocess.run([*command, "-o", str(tmp_path / "probe.o")], check=True)
