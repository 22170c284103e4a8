from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastalign.papers.data import DataError, cifar

RECORDS = 20
CIFAR10 = replace(cifar.CIFAR10, train_records=RECORDS, test_records=RECORDS)
CIFAR100 = replace(cifar.CIFAR100, train_records=RECORDS, test_records=RECORDS)


def records(seed: int, source: cifar.Source) -> np.ndarray:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, source.classes, (RECORDS, 1))
    coarse = generator.integers(0, 20, (RECORDS, source.label_bytes - 1))
    pixels = generator.integers(0, 256, (RECORDS, 3072))
    return np.concatenate([coarse, labels, pixels], axis=1).astype(np.uint8)


def write(folder: Path, source: cifar.Source) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate((*source.train_files, *source.test_files)):
        records(seed, source).tofile(folder / name)


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        (CIFAR10, "cifar-10-batches-bin"),
        (CIFAR10, "cifar10"),
        (CIFAR10, "."),
        (CIFAR100, "cifar-100-binary"),
        (CIFAR100, "cifar100/cifar-100-binary"),
    ],
)
def test_reads_the_values_written(tmp_path: Path, source: cifar.Source, folder: str) -> None:
    write(tmp_path / folder, source)
    splits = cifar.load(tmp_path, source)
    files = len(source.train_files)
    written = np.concatenate([records(seed, source) for seed in range(files)])
    for dataset, expected in ((splits.train, written), (splits.test, records(files, source))):
        assert dataset.labels.tolist() == expected[:, source.label_bytes - 1].tolist()
        assert dataset.images.shape == (len(expected), 3, 32, 32)
        red, green, blue = np.split(expected[:, source.label_bytes :], 3, axis=1)
        assert np.array_equal(dataset.images[:, 0].flatten(1).numpy(), red)
        assert np.array_equal(dataset.images[:, 1].flatten(1).numpy(), green)
        assert np.array_equal(dataset.images[:, 2].flatten(1).numpy(), blue)


def test_a_file_cut_at_a_record_is_named(tmp_path: Path) -> None:
    write(tmp_path, CIFAR10)
    path = tmp_path / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-3073])
    with pytest.raises(DataError, match=r"data_batch_3\.bin holds 58387 bytes, expected 61460 .*https://"):
        cifar.load(tmp_path, CIFAR10)


def test_a_file_of_many_gigabytes_is_read_no_further_than_its_records(tmp_path: Path) -> None:
    write(tmp_path, CIFAR10)
    os.truncate(tmp_path / "data_batch_3.bin", 1 << 36)
    with pytest.raises(DataError, match=r"data_batch_3\.bin holds at least 61461 bytes, expected 61460 .*https://"):
        cifar.load(tmp_path, CIFAR10)


def test_a_label_out_of_range_is_named(tmp_path: Path) -> None:
    write(tmp_path, CIFAR100)
    content = records(1, CIFAR100)
    content[4, 1] = 100
    content.tofile(tmp_path / "test.bin")
    with pytest.raises(DataError, match=r"test\.bin has label 100 at sample 4, expected 0 to 99"):
        cifar.load(tmp_path, CIFAR100)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, CIFAR10)
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"test_batch\.bin is missing in .*cifar-10-binary"):
        cifar.load(tmp_path, CIFAR10)


def test_the_official_sizes() -> None:
    assert cifar.CIFAR10.train_records * len(cifar.CIFAR10.train_files) == 50_000
    assert cifar.CIFAR100.train_records * len(cifar.CIFAR100.train_files) == 50_000
