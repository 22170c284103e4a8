from __future__ import annotations

import numpy as np
import torch

from fastalign.papers.data import Dataset, Splits, whitened
from fastalign.papers.data.whitening import SAMPLES_AT_ONCE


def correlated_bytes(count: int, seed: int) -> torch.Tensor:
    """Images (count, 1, 2, 3) of pixels that lean on each other."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(6, 6))
    pixels = 128 + 12 * generator.normal(size=(count, 6)) @ mixing
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8).reshape(count, 1, 2, 3))


def made_splits(count: int = 400) -> Splits:
    train, test = correlated_bytes(count, 1), correlated_bytes(50, 2)
    return Splits(
        Dataset(train, torch.zeros(count, dtype=torch.int64), 10), Dataset(test, torch.zeros(50, dtype=torch.int64), 10)
    )


def test_the_training_images_become_uncorrelated_and_the_test_images_take_their_transformation() -> None:
    splits = made_splits()
    result = whitened(splits)
    rows = result.train.images.flatten(1).double()
    assert result.train.images.shape == splits.train.images.shape
    assert result.train.images.dtype == torch.float32
    torch.testing.assert_close(rows.mean(0), torch.zeros(6).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(rows.T @ rows / 399, torch.eye(6).double(), rtol=0, atol=1e-5)

    train, test = (part.images.flatten(1).numpy().astype(float) for part in (splits.train, splits.test))
    variances, directions = np.linalg.eigh(np.cov(train.T))
    transformation = sum(
        np.outer(direction, direction) / np.sqrt(variance + 1e-5)
        for variance, direction in zip(variances, directions.T, strict=True)
    )
    expected = torch.from_numpy((test - train.mean(0)) @ transformation)
    torch.testing.assert_close(result.test.images.flatten(1).double(), expected, rtol=1e-5, atol=1e-5)


def test_bytes_and_the_same_images_from_0_to_1_are_whitened_alike() -> None:
    splits = made_splits(SAMPLES_AT_ONCE + 7)
    images, expected = whitened(splits.to("cpu", torch.float64)).train.images, whitened(splits).train.images
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)


def test_pixels_that_never_vary_stay_finite() -> None:
    splits = made_splits()
    splits.train.images[:, 0, 0, 0] = 7
    assert whitened(splits).train.images.isfinite().all()
