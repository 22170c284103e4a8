"""What one epoch of training gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metrics:
    """What one epoch gave.

    epoch: counted from 1. train_loss: mean over the samples, train_error: percent, both gathered while training, each
    batch before its own update. test_error: percent, after the epoch. seconds: of training, without the test.
    lr: the learning rate. observations: what was observed of the network after the epoch (`fastalign.analysis`), a
    value for each layer, by name. A value that is not finite is null in the file.
    """

    epoch: int
    train_loss: float
    train_error: float
    test_error: float
    seconds: float
    lr: float
    observations: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("train_error", "test_error"):
            if getattr(self, name) < 0 or getattr(self, name) > 100:  # NaN is neither
                raise ValueError(f"{name}: expected 0 to 100 percent, got {getattr(self, name)}")
