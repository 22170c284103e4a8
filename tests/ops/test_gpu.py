"""How arguments get to a device, as far as that can be seen without one."""

from __future__ import annotations

import gpu
import pytest
import torch
from cases import CASES, Options, Size, arguments

from fastalign.ops import reference
from fastalign.ops.descent import Descent

SMALL = Size(samples=4, classes=3, units=5, inputs=6)


@pytest.mark.parametrize("op", CASES)
def test_arguments_arrive_as_they_were(op: str) -> None:
    values = list(arguments(op, torch.float32, SMALL, Options(), "misaligned"))
    for value, copy in zip(values, gpu.moved(gpu.moved(values, "cpu"), "cpu"), strict=True):
        for one, other in zip(gpu.tensors(value), gpu.tensors(copy), strict=True):
            assert torch.equal(one, other)
            assert one.stride() == other.stride()


@pytest.mark.parametrize("op", CASES)
def test_the_last_tensors_are_parted_from_the_others(op: str) -> None:
    devices = [
        {tensor.device.type for tensor in gpu.tensors(value)}
        for value in gpu.parted(list(arguments(op, torch.float32, SMALL)), "meta")
    ]
    found = [device for device in devices if device]
    assert found == [{"cpu"}] * (len(found) - 1) + [{"meta"} if len(found) > 1 else {"cpu"}]


def test_settings_of_another_device_are_refused_by_the_reference() -> None:
    parameter = torch.ones(2, device="meta")
    with pytest.raises(ValueError, match="settings: expected device meta, that of the parameters, got cpu"):
        reference.optimizer_steps_([parameter], [], [parameter], int(Descent.SGD), torch.zeros(7, dtype=torch.float64))
