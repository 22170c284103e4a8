from __future__ import annotations

import sys

import pytest
import torch

from fastalign.errors import MissingPackageError
from fastalign.papers import data
from fastalign.papers.data import Dataset, Splits, batches, shuffled


def test_bytes_are_scaled_to_one() -> None:
    images = torch.tensor([[0, 51], [255, 102]], dtype=torch.uint8)
    dataset = Dataset(images, torch.tensor([0, 1]), 2).to("cpu", torch.float64)
    assert torch.equal(dataset.images, torch.tensor([[0, 0.2], [1, 0.4]], dtype=torch.float64))


def test_batches_go_once_through_all_samples_and_keep_the_smaller_last_one() -> None:
    order = shuffled(23, torch.Generator().manual_seed(1), "cpu")
    parts = list(batches(order, 5))
    assert [len(part) for part in parts] == [5, 5, 5, 5, 3]
    assert sorted(torch.cat(parts).tolist()) == list(range(23))
    assert torch.equal(torch.cat(parts), order)


def test_batches_begin_where_an_epoch_was_left() -> None:
    order = torch.arange(23)
    assert [part.tolist() for part in batches(order, 5, first=3)] == [[15, 16, 17, 18, 19], [20, 21, 22]]
    assert list(batches(order, 5, first=5)) == []


def test_the_permutation_follows_the_seed() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = shuffled(50, generator, "cpu"), shuffled(50, generator, "cpu")
    assert not torch.equal(first, second)
    assert torch.equal(first, shuffled(50, torch.Generator().manual_seed(1), "cpu"))


def test_digits_are_split_every_fifth_sample() -> None:
    splits = data.load("digits")
    assert (len(splits.train), len(splits.test)) == (1438, 359)
    assert splits.train.images.shape == (1438, 1, 8, 8)
    assert splits.train.images.min() == 0
    assert splits.train.images.max() == 1
    # scikit-learn's digits begin 0 1 2 … 9 0 1 2 …
    assert splits.train.labels[:8].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert splits.test.labels[:4].tolist() == [4, 9, 4, 9]
    assert set(splits.test.labels.tolist()) == set(range(10))


def test_digits_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "sklearn.datasets", raising=False)
    with pytest.raises(MissingPackageError, match=r"needs the package sklearn.* pip install 'fastalign\[train\]'"):
        data.load("digits")


def test_the_checksum_sees_every_part() -> None:
    def splits() -> Splits:
        return Splits(
            Dataset(torch.arange(6).reshape(3, 2), torch.tensor([0, 1, 2]), 3),
            Dataset(torch.arange(4).reshape(2, 2), torch.tensor([2, 0]), 3),
        )

    checksums = {splits().checksum()}
    assert splits().checksum() in checksums
    for dataset, name in (("train", "images"), ("train", "labels"), ("test", "images"), ("test", "labels")):
        changed = splits()
        getattr(getattr(changed, dataset), name)[1] += 1
        checksums.add(changed.checksum())
    assert len(checksums) == 5
