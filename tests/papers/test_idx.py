from __future__ import annotations

import gzip
import os
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fastalign.papers import data
from fastalign.papers.data import DataError
from fastalign.papers.data.idx import MOST_SAMPLES

PARTS = {"train": 7, "t10k": 3}


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def images(part: str) -> np.ndarray:
    return np.random.default_rng(PARTS[part]).integers(0, 256, (PARTS[part], 28, 28), dtype=np.uint8)


def labels(part: str) -> np.ndarray:
    return np.arange(PARTS[part], dtype=np.uint8) % 10


def write_mnist(folder: Path, compress: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        for name, array in ((f"{part}-images-idx3-ubyte", images(part)), (f"{part}-labels-idx1-ubyte", labels(part))):
            if compress:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "."),
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("fashion-mnist", "FashionMNIST/raw"),
        ("fashion-mnist", "fashion-mnist"),
    ],
)
def test_reads_the_values_written_in_every_layout(tmp_path: Path, name: str, folder: str, compress: bool) -> None:
    write_mnist(tmp_path / folder, compress)
    splits = data.load(name, tmp_path)
    for part, dataset in (("train", splits.train), ("t10k", splits.test)):
        assert dataset.images.shape == (PARTS[part], 1, 28, 28)
        assert np.array_equal(dataset.images.squeeze(1).numpy(), images(part))
        assert dataset.labels.tolist() == labels(part).tolist()
        assert dataset.labels.dtype == torch.int64
        assert dataset.classes == 10


def test_each_set_prefers_its_own_folder(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST/raw")
    with pytest.raises(DataError, match="is missing"):
        data.load("fashion-mnist", tmp_path)


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
)


@pytest.mark.parametrize(
    ("damage", "name", "says"),
    [
        (remove(TEST_IMAGES), TEST_IMAGES, "is missing"),
        (rewrite(TRAIN_IMAGES, lambda content: content[:-1]), TRAIN_IMAGES, "5503 bytes, expected 5504"),
        (rewrite(TRAIN_IMAGES, lambda content: content + b"\0"), TRAIN_IMAGES, "5505 bytes, expected 5504"),
        (rewrite(TRAIN_IMAGES, lambda content: content[:10]), TRAIN_IMAGES, "10 bytes, expected"),
        (rewrite(TRAIN_IMAGES, lambda content: b""), TRAIN_IMAGES, "an empty file, expected 00000803"),
        (rewrite(TRAIN_IMAGES, lambda content: b"<html>"), TRAIN_IMAGES, "expected 00000803"),
        (rewrite(TRAIN_LABELS, lambda content: idx(images("train"))), TRAIN_LABELS, "00000803, expected 00000801"),
        (rewrite(TRAIN_LABELS, lambda content: idx(labels("train")[:-1])), TRAIN_LABELS, "6 labels, expected 7"),
        (
            rewrite(TRAIN_LABELS, lambda content: content[:-1] + b"\x0a"),
            TRAIN_LABELS,
            "label 10 at sample 6, expected 0",
        ),
        (rewrite(TEST_IMAGES, lambda content: idx(np.zeros((3, 8, 8), np.uint8))), TEST_IMAGES, "expected 28 × 28"),
        (rewrite(TRAIN_IMAGES, lambda content: idx(images("train")[:0])), TRAIN_IMAGES, "0 samples, expected 1 to"),
        (rewrite(TEST_IMAGES, lambda content: idx(images("t10k")[:0])), TEST_IMAGES, "0 samples, expected 1 to"),
        (
            rewrite(TEST_IMAGES, lambda content: content[:4] + b"\xff" * 4 + content[8:]),
            TEST_IMAGES,
            "4294967295 samples",
        ),
    ],
)
def test_a_damaged_file_is_named_with_what_was_expected(
    tmp_path: Path, damage: Callable[[Path], None], name: str, says: str
) -> None:
    write_mnist(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError) as caught:
        data.load("mnist", tmp_path)
    assert name in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "change", [lambda content: content[:-9], lambda content: b"text", lambda content: content[:40]]
)
def test_a_damaged_gzip_file_is_named(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    write_mnist(tmp_path, compress=True)
    rewrite(f"{TRAIN_IMAGES}.gz", change)(tmp_path)
    with pytest.raises(DataError, match=rf"{TRAIN_IMAGES}\.gz is a damaged gzip file.*https://"):
        data.load("mnist", tmp_path)


MEBIBYTE = 1 << 20


def memory_to_refuse(folder: Path, says: str = r"holds at least \d+ bytes.*, expected \d+ \(") -> int:
    """The most bytes of Python's that it takes to refuse the data for their size."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=says):
            data.load("mnist", folder)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [TRAIN_IMAGES, TRAIN_LABELS])
def test_a_gzip_file_that_grows_without_end_is_read_no_further_than_its_header_says(tmp_path: Path, name: str) -> None:
    write_mnist(tmp_path, compress=True)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    content = gzip.decompress((tmp_path / f"{name}.gz").read_bytes())
    parts = [packer.compress(part) for part in (content, *[bytes(MEBIBYTE)] * 64)]
    (tmp_path / f"{name}.gz").write_bytes(b"".join([*parts, packer.flush()]))
    assert memory_to_refuse(tmp_path) < 4 * MEBIBYTE


@pytest.mark.parametrize("name", [TRAIN_IMAGES, TRAIN_LABELS])
def test_a_file_of_many_gigabytes_is_read_no_further_than_its_header_says(tmp_path: Path, name: str) -> None:
    write_mnist(tmp_path)
    os.truncate(tmp_path / name, 1 << 36)
    assert memory_to_refuse(tmp_path) < 4 * MEBIBYTE


def test_a_header_that_says_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    rewrite(TRAIN_IMAGES, lambda content: content[:4] + MOST_SAMPLES.to_bytes(4, "big") + content[8:])(tmp_path)
    assert memory_to_refuse(tmp_path, "5504 bytes, expected 822083600") < 4 * MEBIBYTE


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with some bytes cut, changed, added or doubled."""
    at = chance.randrange(chance.choice((20, len(content))))
    some = chance.randbytes(chance.randrange(1, 9))
    rest = {"cut": b"", "change": content[at + len(some) :], "add": content[at:], "double": content[at:] + content}
    kind = chance.choice(list(rest))
    return content[:at] + (b"" if kind == "cut" else some) + rest[kind]


@pytest.mark.parametrize("files", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_a_randomly_damaged_file_is_refused_or_holds_as_many_samples(tmp_path: Path, files: int) -> None:
    refused = 0
    for compress in (False, True):
        folder = tmp_path / str(compress)
        write_mnist(folder, compress)
        whole = {path: path.read_bytes() for path in sorted(folder.iterdir())}
        for seed in range(files // 2):
            chance = random.Random(seed)
            path = chance.choice(list(whole))
            path.write_bytes(damaged(whole[path], chance))
            try:
                splits = data.load("mnist", folder)
            except DataError:
                refused += 1
            else:
                assert (len(splits.train), len(splits.test)) == (PARTS["train"], PARTS["t10k"])
                assert splits.train.images.shape[1:] == (1, 28, 28)
            path.write_bytes(whole[path])
    assert refused > files / 2


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    for name in ("mnist", "fashion-mnist", "cifar10", "cifar100"):
        with pytest.raises(DataError, match=r"is missing in .* get it from https://"):
            data.load(name, tmp_path)


def test_the_folder_comes_from_the_environment_unless_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTALIGN_DATA", raising=False)
    with pytest.raises(DataError, match="--data DIR or set FASTALIGN_DATA"):
        data.load("mnist")
    write_mnist(tmp_path / "a")
    monkeypatch.setenv("FASTALIGN_DATA", str(tmp_path / "a"))
    assert len(data.load("mnist").train) == 7
    for other in ("b", "b" * 5000):
        with pytest.raises(DataError, match="is not a folder"):
            data.load("mnist", tmp_path / other)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="expected one of digits, mnist"):
        data.load("minst")


@pytest.mark.data
@pytest.mark.skipif("FASTALIGN_DATA" not in os.environ, reason="FASTALIGN_DATA does not point to MNIST")
def test_real_mnist() -> None:
    splits = data.load("mnist")
    assert (len(splits.train), len(splits.test)) == (60_000, 10_000)
    assert splits.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert splits.train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert splits.train.images.double().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)
