"""What a run asks of its network after each epoch, for `Metrics.observations`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import index

from fastalign.analysis import alignment_angles, evaluated, gradient_angles, weight_norms
from fastalign.nn import Sequential
from fastalign.papers.data import Dataset
from fastalign.step import Loss

Observer = Callable[[Sequential], Mapping[int, float]]
"""Tells a value for each layer of a network, 0 for the whole of it; leaves it as it is, and draws no random number."""

# So few samples cost as much as a few steps.
OBSERVED_SAMPLES = 256


def observed(network: Sequential, observers: Mapping[str, Observer]) -> dict[str, dict[int, float]]:
    """What each observer tells of the network, in evaluation mode, by its name.

    Raises:
        TypeError: one tells something else than numbers by layer.
    """
    found = {}
    with evaluated(network):
        for name, observe in observers.items():
            told = observe(network)
            try:
                found[name] = {index(layer): float(value) for layer, value in told.items()}
            except (AttributeError, TypeError, ValueError) as error:
                raise TypeError(f"observers: expected of {name!r} a number for each layer, got {told!r}") from error
    return found


def standard_observers(train: Dataset, loss: Loss, reduction: str) -> dict[str, Observer]:
    """By name: alignment angle and gradient angle in degrees (the latter on the first samples), and weight norm.

    loss: summed over the samples. reduction: "mean" where training divides it by their number, else "sum".
    """
    images, labels = train.images[:OBSERVED_SAMPLES], train.labels[:OBSERVED_SAMPLES]
    divisor = len(labels) if reduction == "mean" else 1
    return {
        "alignment_angle": alignment_angles,
        "gradient_angle": lambda network: gradient_angles(
            network, images, lambda outputs: loss(outputs, labels) / divisor, target=labels
        ),
        "weight_norm": weight_norms,
    }
