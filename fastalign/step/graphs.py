"""A recorded step as a CUDA graph: one launch in place of one for each kernel."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from fastalign.step.replay import Program

Run = Callable[[], list[Tensor]]


class Graphs(Protocol):
    """What a captured program asks of a device."""

    survive_failures: bool
    """Whether one may go on after a capture that failed."""

    def is_capturing(self) -> bool:
        """Whether a capture of somebody else is under way."""

    def warm_up(self, run: Run) -> list[Tensor]:
        """Run as a capture will, aside from the current stream."""

    def capture(self, run: Run) -> tuple[Callable[[], None], list[Tensor]]:
        """Note what `run` launches, without doing it: what does it, and the results, always in the same place."""


class CudaGraphs:
    """Graphs of torch.cuda, which registers its generator with them: every replay draws other masks of dropout.

    Whichever device is the current one, they are of the given one, captured on a stream of their own. Other threads go
    on meanwhile (loaders that pin memory, other networks).
    """

    # The allocator of an older torch believes for ever that a capture which failed is under way.
    survive_failures = TorchVersion(torch.__version__) >= "2.13"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._aside = torch.cuda.Stream(device)

    def is_capturing(self) -> bool:
        with torch.cuda.device(self._device):
            return torch.cuda.is_current_stream_capturing()

    def warm_up(self, run: Run) -> list[Tensor]:
        with torch.cuda.device(self._device):
            stream = torch.cuda.current_stream()
            self._aside.wait_stream(stream)
            with torch.cuda.stream(self._aside):
                results = run()
            stream.wait_stream(self._aside)
        for result in results:
            result.record_stream(stream)
        return results

    def capture(self, run: Run) -> tuple[Callable[[], None], list[Tensor]]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), warnings.catch_warnings():
            warnings.filterwarnings("error", "The CUDA Graph is empty")
            # Torch leaves its own stream the current one after a capture that fails.
            with torch.cuda.stream(torch.cuda.current_stream()):
                try:
                    with torch.cuda.graph(graph, stream=self._aside, capture_error_mode="thread_local"):
                        results = run()
                except UserWarning as warning:
                    raise RuntimeError(str(warning)) from None
        return graph.replay, results


def graphs_of(device: torch.device) -> Graphs | None:
    """The graphs of a device, None where it has none."""
    return CudaGraphs(device) if device.type == "cuda" else None


class CapturedProgram:
    """A program as a graph, after one run to warm up; each of its runs is a step and made once.

    Inputs are copied to where the graph reads them, results from where it writes them. What cannot be captured is run
    call by call, with a warning, or is an error with torch before 2.13. Precision settings of products are those of the
    capture.
    """

    def __init__(self, program: Program, graphs: Graphs) -> None:
        self._program = program
        self._graphs = graphs
        self._inputs: list[Tensor] = []
        self._replay: Callable[[], None] | None = None
        self._results: list[Tensor] = []
        self._failed = False

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        if self._failed or self._graphs.is_capturing():
            return self._program(*inputs)
        if not self._inputs:
            self._inputs = [tensor.clone() for tensor in inputs]
            return self._graphs.warm_up(self._run)
        if self._replay is None and not self._capture():
            return self._program(*inputs)
        assert self._replay is not None
        self._take(inputs)
        self._replay()
        return [result.clone() for result in self._results]

    def _run(self) -> list[Tensor]:
        return self._program(*self._inputs)

    def _take(self, inputs: Sequence[Tensor]) -> None:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)

    def _capture(self) -> bool:
        try:
            self._replay, self._results = self._graphs.capture(self._run)
        except RuntimeError as error:
            if not self._graphs.survive_failures:
                raise RuntimeError(
                    f"TrainStep: a step could not be captured in a CUDA graph, after which torch before 2.13 cannot go "
                    f"on; a loss as a callable is not captured: {error}"
                ) from error
            self._failed, self._inputs = True, []
            warnings.warn(f"TrainStep: a step is not captured in a CUDA graph, which costs time: {error}", stacklevel=5)
        return not self._failed
