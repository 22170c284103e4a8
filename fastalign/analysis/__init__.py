"""What a trained or training network shows: angles, weights, activities, learning curves; and plots of them."""

from __future__ import annotations

import warnings
from typing import Any

from fastalign.analysis.angles import alignment_angles, angle, gradient_angles
from fastalign.analysis.distributions import WeightDistribution, fit_distributions
from fastalign.analysis.embedding import tsne
from fastalign.analysis.networks import activities, evaluated, stages_of, weight_norms, weights_of
from fastalign.analysis.slowness import Plateau, fit_plateau

__all__ = [
    "Plateau",
    "WeightDistribution",
    "activities",
    "alignment_angles",
    "angle",
    "evaluated",
    "fit_distributions",
    "fit_plateau",
    "gradient_angles",
    "stages_of",
    "tsne",
    "weight_norms",
    "weights_of",
]


def __getattr__(name: str) -> Any:
    """Find `read_metrics`, which is in `fastalign.papers` now, for one more release."""
    if name != "read_metrics":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fastalign.papers import read_metrics

    warnings.warn("fastalign.analysis.read_metrics is now in fastalign.papers", DeprecationWarning, stacklevel=2)
    return read_metrics
