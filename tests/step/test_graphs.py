"""Recorded steps as graphs, on a stand-in for a device's: when they are captured, run again and given up."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from networks import CLASSES, RULES, assert_same, batches, loop, network, twins
from torch import Tensor
from torch.optim import SGD, Adagrad, AdamW

from fastalign import TrainStep
from fastalign.papers.runs import run as training_run
from fastalign.papers.runs.distributed import Processes
from fastalign.step import graphs as cuda_graphs
from fastalign.step import train_step
from fastalign.step.graphs import CapturedProgram, Run


class StandIn:
    """Graphs on the CPU: a capture puts everything back, a replay runs again and writes where the capture did."""

    survive_failures = True

    def __init__(self, lasting: Callable[[], list[Tensor]], fails: bool = False) -> None:
        self._lasting, self._fails = lasting, fails
        self.told: list[str] = []
        self.others_capture = False

    def is_capturing(self) -> bool:
        return self.others_capture

    def warm_up(self, run: Run) -> list[Tensor]:
        self.told.append("warm-up")
        return run()

    def capture(self, run: Run) -> tuple[Callable[[], None], list[Tensor]]:
        self.told.append("capture")
        if self._fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        before, state = [t.clone() for t in self._lasting()], torch.get_rng_state()
        results = run()
        for tensor, value in zip(self._lasting(), before, strict=True):
            tensor.copy_(value)
        torch.set_rng_state(state)

        def replay() -> None:
            self.told.append("replay")
            for result, value in zip(results, run(), strict=True):
                result.copy_(value)

        return replay, results


def trained(
    rule: str, make: Any, monkeypatch: pytest.MonkeyPatch, fails: bool = False, change: Any = None
) -> tuple[Any, Any, StandIn]:
    """A network trained by the loop, and one by captured steps."""
    plain, (net, optimizer) = twins(network("dense", rule), make)

    def lasting() -> list[Tensor]:
        return [*net.parameters(), *(v for s in optimizer.state.values() for v in s.values())]

    graphs = StandIn(lasting, fails)
    monkeypatch.setattr(train_step, "graphs_of", lambda device: graphs)
    step = TrainStep(net, loss="cross_entropy", optimizer=optimizer)
    for i, batch in enumerate(batches("dense", 9)):
        if change is not None:
            change(i, graphs, optimizer, plain[1])
        loop(*plain, [batch], first=i)
        torch.manual_seed(i)
        with warnings.catch_warnings():
            warnings.simplefilter("error" if not fails or i > 3 else "ignore")
            step.step(*batch)
        assert step.outputs is not None
        assert step.outputs.shape == (len(batch[1]), CLASSES)
    return plain, (net, optimizer), graphs


@pytest.mark.parametrize(
    "make",
    [lambda p: SGD(p, lr=0.1, momentum=0.9), lambda p: AdamW(p, lr=0.01), lambda p: Adagrad(p, lr=0.1)],
    ids=["momentum", "adamw", "its own step"],
)
@pytest.mark.parametrize("rule", RULES)
def test_captured_steps_are_the_loop(rule: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other dropout masks at every replay, a rate that changes, and a smaller batch at the end."""

    def change(i: int, graphs: StandIn, *optimizers: Any) -> None:
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] *= 0.9

    plain, captured, graphs = trained(rule, make, monkeypatch, change=change)
    assert_same(captured, plain)
    assert graphs.told == ["warm-up", "capture", *["replay"] * 5]


def test_what_cannot_be_captured_runs_call_by_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one warning: later steps would raise on another."""
    plain, captured, graphs = trained("dfa", lambda p: AdamW(p, lr=0.01), monkeypatch, fails=True)
    assert_same(captured, plain)
    assert graphs.told == ["warm-up", "capture"]
    failing = CapturedProgram(lambda x: [x + 1], StandIn(list, fails=True))
    failing(torch.ones(1))
    with pytest.warns(UserWarning, match="not captured in a CUDA graph, which costs time: operation not permitted"):
        assert failing(torch.ones(1))[0] == 2


def test_a_capture_of_somebody_elses_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(i: int, graphs: StandIn, *_: Any) -> None:
        graphs.others_capture = i in (2, 3, 5)

    plain, captured, graphs = trained("dfa", lambda p: AdamW(p, lr=0.01), monkeypatch, change=change)
    assert_same(captured, plain)
    assert graphs.told == ["warm-up", "capture", *["replay"] * 2]


def test_results_and_inputs_are_the_callers() -> None:
    captured = CapturedProgram(lambda x: [x * 2], StandIn(list))
    inputs = [torch.full((2,), float(i)) for i in range(5)]
    results = [captured(x)[0] for x in inputs]
    torch.testing.assert_close(results, [2 * x for x in inputs])


def test_a_failed_capture_ends_what_cannot_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "survive_failures", False)
    failing = CapturedProgram(lambda x: [x + 1], StandIn(list, fails=True))
    failing(torch.ones(1))
    with pytest.raises(RuntimeError, match=r"torch before 2\.13 cannot go on; .*: operation not permitted"):
        failing(torch.ones(1))


class StandInStream(NamedTuple):
    """A stream that is not there: the number of its device, and its name."""

    device: int
    name: str

    def wait_stream(self, other: StandInStream) -> None:
        assert other.device == self.device


class Cuda:
    """torch.cuda with two devices, the first being the current one; a failed capture leaves its stream current."""

    def __init__(self) -> None:
        self.current, self.streams = 0, [StandInStream(i, "default") for i in (0, 1)]
        self.modes: list[str] = []

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device.index
        try:
            yield
        finally:
            self.current = before

    def Stream(self, device: torch.device) -> StandInStream:  # noqa: N802
        return StandInStream(device.index, "aside")

    def current_stream(self) -> StandInStream:
        return self.streams[self.current]

    @contextmanager
    def stream(self, stream: StandInStream) -> Iterator[None]:
        before = self.streams[stream.device]
        self.streams[stream.device] = stream
        try:
            yield
        finally:
            self.streams[stream.device] = before

    def is_current_stream_capturing(self) -> bool:
        return self.current_stream().name == "aside"

    def CUDAGraph(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(replay=None)

    @contextmanager
    def graph(self, graph: object, stream: StandInStream, capture_error_mode: str) -> Iterator[None]:
        before, self.streams[self.current] = self.current_stream(), stream
        self.modes.append(capture_error_mode)
        yield
        self.streams[self.current] = before


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    stand_in = Cuda()
    monkeypatch.setattr(cuda_graphs, "torch", SimpleNamespace(cuda=stand_in))
    return stand_in


SECOND = torch.device("cuda", 1)


def test_a_step_is_captured_on_its_own_device(cuda: Cuda) -> None:
    """Aside from its stream, whichever device is the current one, and without a ban on other threads' calls."""
    second = cuda_graphs.CudaGraphs(SECOND)
    for run in (second.warm_up, second.capture):
        seen: list[StandInStream] = []
        run(lambda seen=seen: seen.append(cuda.current_stream()) or [])  # type: ignore[misc]
        assert seen == [StandInStream(1, "aside")]
    assert cuda.modes == ["thread_local"]
    assert not second.is_capturing()
    with cuda.stream(StandInStream(1, "aside")):
        assert second.is_capturing()
    assert cuda.current == 0


def fail() -> list[Tensor]:
    raise RuntimeError("operation not permitted when stream is capturing")


def capture_nothing() -> list[Tensor]:
    warnings.warn("The CUDA Graph is empty. This usually means that it was captured on wrong device", stacklevel=2)
    return []


@pytest.mark.parametrize("run", [fail, capture_nothing])
def test_a_failed_capture_leaves_the_stream_as_it_was(run: Run, cuda: Cuda) -> None:
    with pytest.raises(RuntimeError, match=r"not permitted|Graph is empty"):
        cuda_graphs.CudaGraphs(SECOND).capture(run)
    assert [stream.name for stream in cuda.streams] == ["default", "default"]


def test_processes_set_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    monkeypatch.setattr(training_run, "Trainer", lambda *_, device, **__: device)
    settings = SimpleNamespace(
        device="cuda", rule="bp", batch_size=1, lr=1, seed=0, dtype="float32", freeze_filters=False, fused_step=False
    )
    processes = Processes(rank=1, count=2, local_rank=1)
    device: object = training_run._make_trainer(None, settings, None, processes)  # type: ignore[arg-type]
    assert told == [device] == [SECOND]
