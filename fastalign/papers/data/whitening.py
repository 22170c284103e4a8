"""ZCA whitening, as `unsup.zca_whiten` does it for Nøkland's convolutional nets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fastalign.papers.data.dataset import Dataset, Splits

BRIGHTEST = 255
EPSILON = 1e-5
SAMPLES_AT_ONCE = 5000


def whitened(splits: Splits) -> Splits:
    """Both sets as float32 images (x − μ) P, P = V (Λ + ε)^−½ Vᵀ, with μ and the covariance V Λ Vᵀ of the training set.

    ε = 1e-5 for pixels from 0 to 255: directions in which the training images hardly vary are amplified up to 1/√ε
    times, noise that compression left in them included.
    """
    mean, transformation = _fit(splits.train.images)
    return Splits(_transform(splits.train, mean, transformation), _transform(splits.test, mean, transformation))


def _fit(images: Tensor) -> tuple[Tensor, Tensor]:
    """μ (features) and P (features, features), float64."""
    count = len(images)
    mean = torch.stack([pixels.sum(0) for pixels in _pixels(images)]).sum(0) / count
    covariance = mean.new_zeros(len(mean), len(mean))
    for pixels in _pixels(images):
        centred = pixels - mean
        covariance.addmm_(centred.T, centred, alpha=1 / (count - 1))
    variances, directions = torch.linalg.eigh(covariance)
    return mean, (directions / (variances + EPSILON).sqrt()) @ directions.T


def _transform(dataset: Dataset, mean: Tensor, transformation: Tensor) -> Dataset:
    images = torch.cat([((pixels - mean) @ transformation).float() for pixels in _pixels(dataset.images)])
    return replace(dataset, images=images.reshape(dataset.images.shape))


def _pixels(images: Tensor) -> Iterator[Tensor]:
    """Rows of float64 pixels from 0 to 255, some samples at a time."""
    scale = BRIGHTEST if images.is_floating_point() else 1
    for part in images.flatten(1).split(SAMPLES_AT_ONCE):
        yield part.double() * scale
