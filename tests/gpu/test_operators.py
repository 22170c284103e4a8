"""The ops on a device beyond their numbers, which tests/ops checks there too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gpu
import pytest
import torch
from cases import (
    CASES,
    DTYPES,
    ON_CPU_ALONE,
    WITH_DROPOUT,
    Options,
    Size,
    arguments,
    as_tuple,
    call,
    in_dtype,
    run_reference,
)
from torch import Tensor

from fastalign.ops.schemas import SCHEMAS

SIZE = Size(samples=130, classes=10, units=200, inputs=150)
IN_PLACE = {op for op in CASES if op.endswith("_")}
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def kernel(op: str) -> Callable[..., Any]:
    return getattr(torch.ops.fastalign, op)


def on_device(op: str, dtype: torch.dtype = torch.float32, device: str = "cuda") -> list[Any]:
    dropout = 0.3 if op in WITH_DROPOUT else 0.0
    return gpu.moved(list(arguments(op, dtype, SIZE, Options(dropout=dropout))), device)


def same_bits(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    def bits(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1).view(torch.uint8)

    return all(torch.equal(bits(a), bits(b)) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("op", sorted(set(SCHEMAS) - ON_CPU_ALONE))
def test_every_op_runs_own_kernels(op: str) -> None:
    values = on_device(op)
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastalign::{op}", "CUDA")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call(kernel(op), op, values)
        torch.cuda.synchronize()
    names = [event.key for event in profile.key_averages()]
    assert any("fastalign::cuda::" in name for name in names), names


@dtypes
@pytest.mark.parametrize("op", CASES)
def test_same_bits_at_every_run(op: str, dtype: torch.dtype) -> None:
    values = on_device(op, dtype)
    first = call(kernel(op), op, values)
    assert all(same_bits(first, call(kernel(op), op, values)) for _ in range(20))


@pytest.mark.parametrize("op", sorted(set(CASES) - IN_PLACE))
def test_graph_capture(op: str) -> None:
    """A graph computes anew with what its inputs then hold."""
    values = on_device(op)
    call(kernel(op), op, values)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = as_tuple(kernel(op)(*values))
    for value in values:
        for tensor in value if isinstance(value, list) else [value]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                tensor.mul_(0.5)
    graph.replay()
    assert same_bits(captured, as_tuple(kernel(op)(*values)))


@pytest.mark.parametrize("op", CASES)
def test_side_stream(op: str) -> None:
    """The op waits for what its stream does before, and for nothing of another stream."""
    values = on_device(op)
    expected = call(kernel(op), op, values)
    busy, stream = torch.cuda.Stream(), torch.cuda.Stream()
    finished = torch.cuda.Event()
    with torch.cuda.stream(busy):
        torch.cuda._sleep(2_000_000_000)  # of cycles: about a second
        finished.record()
    stream.wait_stream(torch.cuda.default_stream())
    with torch.cuda.stream(stream):
        copies = gpu.moved(gpu.moved(values, "cpu"))
        torch.cuda._sleep(1_000_000)
        for copy in copies:
            for tensor in gpu.tensors(copy):
                if tensor.is_floating_point():
                    tensor.mul_(2).mul_(0.5)
        actual = call(kernel(op), op, copies)
    stream.synchronize()
    assert not finished.query()
    assert same_bits(actual, expected)


@pytest.mark.parametrize("op", CASES)
def test_second_device(op: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is no second device")
    results = call(kernel(op), op, on_device(op, device="cuda:1"))
    assert all(result.device.index == 1 for result in results)
    assert torch.cuda.current_device() == 0
    expected = call(kernel(op), op, on_device(op))
    if torch.cuda.get_device_name(0) == torch.cuda.get_device_name(1):
        assert same_bits(tuple(r.cpu() for r in results), tuple(e.cpu() for e in expected))


@pytest.mark.parametrize("op", CASES)
def test_tensors_of_two_devices_are_refused(op: str) -> None:
    values = on_device(op)
    parted = gpu.parted(values, "cpu")
    if all(one is other for one, other in zip(parted, values, strict=True)):
        pytest.skip("this op has one tensor")
    # Before 2.13 torch tells nobody what the reference said.
    with pytest.raises(RuntimeError, match=r"device|standard error tells why"):
        call(kernel(op), op, parted)


@pytest.mark.parametrize("op", [op for op in CASES if "update" in op or op in ("linear_forward", "feedback_term")])
def test_tf32_where_torch_allows_it(op: str) -> None:
    """As far off as torch's own products then are; and not at all where it does not.

    No sum is so short that it is projected, which is never done in TF32.
    """
    values = arguments(op, torch.float32, Size(samples=130, classes=1500, units=200, inputs=300))
    errors = {}
    for precision in ("tf32", "ieee"):
        gpu.set_precision(precision)
        results = [r.cpu() for r in call(kernel(op), op, gpu.moved(list(values)))]
        truths = run_reference(op, in_dtype(values, torch.float64))
        errors[precision] = max(
            ((r.double() - t).norm() / t.norm()).item() for r, t in zip(results, truths, strict=True)
        )
    assert errors["ieee"] < 5e-6
    assert errors["ieee"] < errors["tf32"] < 2e-3


def test_more_elements_than_an_int_counts() -> None:
    """Beyond 2³¹ elements in one tensor, and places of them."""
    free, _ = torch.cuda.mem_get_info()
    rows, columns = 2**16 + 1, 2**15 + 8
    if free < 5 * rows * columns:
        pytest.skip("the device has too little memory")
    assert rows * columns > 2**31
    kept = torch.full((rows, columns), 0.5, dtype=torch.bfloat16, device="cuda")
    kept[-1], kept[:, -1] = 0.0, -0.25
    signal = torch.zeros(rows, 2, dtype=torch.bfloat16, device="cuda")
    signal[:, 0] = 1
    feedback = torch.ones(columns, 2, dtype=torch.bfloat16, device="cuda")
    delta = torch.ops.fastalign.feedback_term(signal, feedback, kept, 1, True, 0.0, None)
    for place, h in (((0, 0), 0.5), ((-1, 0), 0.0), ((-2, -1), -0.25), ((-2, -2), 0.5), ((rows // 2, 1), 0.5)):
        assert delta[place].item() == 1 - h * h
    del delta
    x = torch.zeros(rows, 3, dtype=torch.bfloat16, device="cuda")
    x[-1] = 1
    weight_update, bias_update = torch.ops.fastalign.linear_update(kept, x, 1.0, True)
    assert torch.equal(weight_update, kept[-1:].T.expand(-1, 3))
    assert bias_update.isfinite().all()
