"""What a trained or training network shows: angles, weights, activities, learning curves; and plots of them."""

from __future__ import annotations

from fastalign.analysis.angles import alignment_angles, angle, gradient_angles
from fastalign.analysis.distributions import WeightDistribution, fit_distributions
from fastalign.analysis.embedding import tsne
from fastalign.analysis.networks import activities, weight_norms, weights_of
from fastalign.analysis.slowness import Plateau, fit_plateau
from fastalign.papers.runs.reading import read_metrics

__all__ = [
    "Plateau",
    "WeightDistribution",
    "activities",
    "alignment_angles",
    "angle",
    "fit_distributions",
    "fit_plateau",
    "gradient_angles",
    "read_metrics",
    "tsne",
    "weight_norms",
    "weights_of",
]
