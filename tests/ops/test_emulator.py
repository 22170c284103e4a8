"""The emulator itself: what it runs right, and what it catches."""

from __future__ import annotations

import emulator
import pytest
import torch
from emulator import fault
from torch import Tensor

MISSING = emulator.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
NUMBER = 4096  # elements that a probe may write
SCHEDULES = range(5)


def probe(name: str, argument: int = 0, schedule: int = 0, offset: int = 0, writable: bool = True) -> Tensor:
    """What the kernel of a name writes into memory that starts `offset` elements beyond an aligned address."""
    result = torch.full((NUMBER + offset,), -1.0)[offset:]
    module = emulator.probes()
    with emulator.lines_of_faults():
        module.probe(emulator.device(module, schedule), name, emulator.array(result), argument, writable)
    return result


def rotated(by: int) -> Tensor:
    """What a block of 256 threads gets where each hands its number on."""
    return ((torch.arange(256) + by) % 256).float().repeat(3)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_barriers(schedule: int) -> None:
    assert torch.equal(probe("rotate", schedule=schedule)[: 3 * 256], rotated(1))
    assert torch.equal(probe("rotate twice", schedule=schedule)[: 3 * 256], rotated(2))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_missing_barrier_is_a_race(schedule: int) -> None:
    for name in ("rotate without a barrier", "rotate twice without a barrier"):
        with fault("a (read|write) of byte .* of static shared memory, which .* since the last barrier at probes.cu"):
            probe(name, schedule=schedule)


def test_schedule_follows_from_its_seed() -> None:
    def run(schedule: int) -> float:
        return probe("last", schedule=schedule)[0].item()

    assert [run(schedule) for schedule in SCHEDULES] == [run(schedule) for schedule in SCHEDULES]
    assert len({run(schedule) for schedule in SCHEDULES}) > 1


def test_positions() -> None:
    expected = torch.tensor([1000.0 * block + thread for block in range(12) for thread in range(24)])
    assert torch.equal(probe("position")[: len(expected)], expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_shuffles_and_votes(schedule: int) -> None:
    for thread, row in enumerate(probe("shuffles", schedule=schedule)[: 64 * 8].view(64, 8).tolist()):
        lane = thread % 32
        assert row == [
            5,
            lane // 8 * 8 + (lane + 3) % 8,
            lane - 3 if lane >= 3 else lane,
            lane + 2 if lane % 16 < 14 else lane,
            lane ^ 5,
            0b111,
            1,
            lane ^ 8 if lane < 16 else -1,
        ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "half at a barrier",
            ("deadlock", "128 threads, .* have returned", "128 threads, .* wait at barrier probes.cu"),
        ),
        ("two barriers", ("at two barriers, probes.cu",)),
        ("missing lane", ("deadlock", "31 threads, .* wait at __shfl_xor_sync probes.cu")),
        ("lane outside its mask", ("__shfl_xor_sync", "mask")),
        ("source outside the mask", ("__shfl_xor_sync from lane", "not in the mask")),
        ("lanes that the block has not", ("a mask that names lane", "which the block has not")),
    ],
)
def test_deadlocks_and_masks(name: str, message: tuple[str, ...]) -> None:
    for schedule in SCHEDULES:
        with fault(*message):
            probe(name, schedule=schedule)
    assert torch.equal(probe("rotate")[: 3 * 256], rotated(1))  # a fault leaves nothing behind


def test_shared_memory_is_poisoned_at_the_start_of_each_block() -> None:
    assert probe("uninitialised")[: 3 * 256].isnan().all()


def test_vectors_must_be_aligned() -> None:
    assert probe("vector", 4)[4 : 4 + 256].tolist() == [1, 2, 3, 4] * 64
    for argument, offset, distance in ((1, 0, 4), (2, 0, 8), (0, 1, 4), (2, 3, 4)):
        with fault(f"a misaligned access: {distance} bytes after a multiple of 16 at probes.cu"):
            probe("vector", argument, offset=offset)


def test_memory_is_bounded() -> None:
    assert probe("write", NUMBER - 1)[-1] == 1
    with fault("a write of 4 bytes, 0 bytes after the end of result"):
        probe("write", NUMBER)
    with fault("a write of 4 bytes, 4 bytes before result"):
        probe("write", -1, offset=1)
    with fault("a write of 4 bytes, outside all memory"):
        probe("write", 1 << 40)
    with fault("a write to result, which is for reading"):
        probe("write", 0, writable=False)


def test_shared_memory_is_bounded() -> None:
    assert probe("dynamic")[:4].tolist() == [1, 0, 3, 2]
    with fault("a write of 4 bytes, 0 bytes after the end of dynamic shared memory"):
        probe("dynamic", 1)
    with fault("a write of 4 bytes, 4 bytes before dynamic shared memory"):
        probe("dynamic", -1)
    assert probe("index")[0] == 0
    for index in (1, -1):
        with fault("an index out of bounds at probes.cu"):
            probe("index", index)


def test_limits_of_a_launch() -> None:
    for name, most, message in (
        ("threads", 1024, "invalid configuration argument"),
        ("threads in two rows", 512, "invalid configuration argument"),
        ("blocks in y", 65535, "invalid configuration argument"),
        ("dynamic bytes", 227 << 10, "invalid argument"),
        ("dynamic bytes beside static ones", (227 << 10) - 4 * 256, "invalid argument"),
    ):
        probe(name, most)
        with fault(f"did not launch: {message}"):
            probe(name, most + 1)
    for name in ("threads", "blocks in y"):
        with fault("did not launch: invalid configuration argument"):
            probe(name, 0)
