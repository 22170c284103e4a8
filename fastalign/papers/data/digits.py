"""The built-in data set: the 1,797 handwritten digits of 8 × 8 pixels that come with scikit-learn.

The split is fixed: in scikit-learn's order every fifth sample (number 4, 9, 14, …) is for testing, 359 in all, and the
other 1,438 are for training; so both hold digits of every writer.
"""

from __future__ import annotations

import torch

from fastalign.errors import import_optional
from fastalign.papers.data.dataset import Dataset, Splits

CLASSES = 10
BRIGHTEST = 16


def load() -> Splits:
    """Read the digits: images (N, 1, 8, 8) float64 in [0, 1].

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    digits = import_optional("sklearn.datasets", "the data set digits").load_digits()
    images = torch.from_numpy(digits.images).unsqueeze(1) / BRIGHTEST
    labels = torch.from_numpy(digits.target).long()
    test = torch.arange(len(labels)) % 5 == 4
    return Splits(Dataset(images[~test], labels[~test], CLASSES), Dataset(images[test], labels[test], CLASSES))
