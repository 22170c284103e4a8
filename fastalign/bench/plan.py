"""What is measured, and for how long: all of it, a quick look, or what a test asks for."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch

GROUPS = ("ops", "steps", "memory", "scaling")


@dataclass(frozen=True)
class Network:
    """A network for classification and its batch: dense, or with one convolution before its output layer."""

    name: str
    inputs: tuple[int, ...]
    """The shape of a sample."""
    hidden: tuple[int, ...]
    """The units of the hidden layers; of a convolutional network its filters, of 5 × 5 and followed by pooling of 2."""
    classes: int = 10
    samples: int = 64
    activation: str = "tanh"
    bias: bool = True
    dtype: torch.dtype = torch.float32

    @property
    def is_convolutional(self) -> bool:
        return len(self.inputs) > 1


NETWORKS = (
    Network("784-1024-10", (784,), (1024,), activation="relu", bias=False),
    Network("784-800⁴-10", (784,), (800,) * 4),
    Network("784-240¹⁰⁰-10", (784,), (240,) * 100),
    Network("784-1024-10 bf16", (784,), (1024,), activation="relu", bias=False, dtype=torch.bfloat16),
    Network("784-800⁴-10 bf16", (784,), (800,) * 4, dtype=torch.bfloat16),
    Network("64-128-10", (64,), (128,), samples=32),
    Network("64-128²-10", (64,), (128, 128)),
    Network("1×28² → 32 5×5 → 10", (1, 28, 28), (32,), samples=100, activation="relu", bias=False),
)
"""Of Dellaferrera & Kreiman, of Nøkland twice, two of these in bfloat16, two small ones, and the convolutional one of
Dellaferrera & Kreiman."""


@dataclass(frozen=True)
class Plan:
    """What is measured. Shapes of ops are those of the papers first, then larger ones.

    projections: (samples, units, classes). products: (samples, inputs, units). convolutions: (samples, channels, size,
    kernel, filters, padding). compiles: whether torch.compile is measured, of an op at its first and last shape. axes:
    of `scaling`, the values of each, the others being those of `middle`.
    """

    groups: tuple[str, ...] = GROUPS
    device: str = "cpu"
    threads: int = 1
    processes: int = 5
    seconds: float = 0.08
    """For a row of ops, shared by its variants; a network of steps takes `step_seconds`, a point of scaling a tenth."""
    step_seconds: float = 6.0
    rounds: int = 3
    """At least."""
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    projections: tuple[tuple[int, int, int], ...] = (
        (64, 1024, 10),
        (64, 800, 10),
        (64, 240, 10),
        (64, 1024, 100),
        (128, 2048, 10),
        (256, 4096, 100),
        (256, 4096, 1000),
        (256, 4096, 10),
    )
    products: tuple[tuple[int, int, int], ...] = (
        (64, 784, 1024),
        (64, 784, 800),
        (64, 800, 800),
        (64, 240, 240),
        (128, 2048, 2048),
        (512, 1024, 1024),
        (1024, 1024, 1024),
        (256, 1024, 1024),
    )
    convolutions: tuple[tuple[int, int, int, int, int, int], ...] = (
        (100, 1, 28, 5, 32, 0),
        (100, 3, 32, 5, 32, 0),
        (64, 96, 15, 5, 128, 2),
        (256, 3, 32, 5, 32, 0),
        (64, 32, 32, 3, 64, 1),
        (128, 128, 8, 3, 256, 1),
        (64, 64, 16, 3, 128, 1),
    )
    compiles: bool = True
    counts_memory: bool = True
    """In `scaling`."""
    networks: tuple[Network, ...] = NETWORKS
    most_compiled_layers: int = 20
    """Of plain steps; BP is compiled at any depth."""
    depths: tuple[int, ...] = (4, 16, 64)
    middle: Network = Network("784-512⁴-10", (784,), (512,) * 4)
    axes: tuple[tuple[str, tuple[int, ...]], ...] = (
        ("depth", (1, 2, 4, 8, 16, 32, 64)),
        ("width", (64, 128, 256, 512, 1024, 2048)),
        ("batch", (8, 32, 64, 128, 256, 512, 1024)),
        ("classes", (2, 10, 100, 1000)),
    )

    def quick(self) -> Plan:
        """A look at everything in under a minute: one process, nothing compiled, few shapes."""
        return replace(
            self,
            processes=1,
            seconds=0.01,
            step_seconds=0.5,
            rounds=3,
            projections=(self.projections[0], self.projections[-1]),
            products=(self.products[0], self.products[-1]),
            convolutions=self.convolutions[:1],
            compiles=False,
            counts_memory=False,
            networks=tuple(n for n in self.networks if len(n.hidden) <= self.most_compiled_layers),
            depths=self.depths[:2],
            axes=tuple((axis, values[1:-1:2]) for axis, values in self.axes),
        )

    def for_comparison(self, pairs: int) -> Plan:
        """What is measured of two builds: so many pairs, nothing but times, nothing compiled, and each for longer."""
        return replace(
            self,
            processes=pairs,
            seconds=1.5 * self.seconds,
            step_seconds=1.5 * self.step_seconds,
            compiles=False,
            counts_memory=False,
        )

    def with_processes(self, processes: int) -> Plan:
        return replace(self, processes=processes)

    def without_memory(self) -> Plan:
        """What further processes measure: memory is a count, the same in each of them."""
        return replace(self, groups=tuple(g for g in self.groups if g != "memory"), counts_memory=False)

    def as_plain_data(self) -> dict[str, Any]:
        """What differs from a plan's defaults, in builtin types and dtypes, of which another build makes its own."""
        return _differences(self)


def _differences(record: Plan | Network) -> dict[str, Any]:
    return {
        field.name: _plain(value) for field in fields(record) if (value := getattr(record, field.name)) != field.default
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Network):
        return _differences(value)
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value
