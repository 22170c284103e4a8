"""Softmax and cross-entropy: rows of any width, labels that do not count, labels that are no class."""

from __future__ import annotations

import emulator
import pytest
import torch
from cases import DTYPES, Arguments, Backend, Draw, assert_results, without_library
from torch import Tensor

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
needs_emulator = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))


def drawn(samples: int, classes: int, dtype: torch.dtype = torch.float32, mean: bool = True) -> Arguments:
    draw = Draw(dtype)
    return draw(samples, classes, scale=3), draw.labels(samples, classes), mean


def check(backend: Backend, values: Arguments) -> tuple[Tensor, ...]:
    results = backend.run("cross_entropy", values)
    assert_results(results, "cross_entropy", values)
    return results


# Around the classes at which a row takes more threads; rows in several turns of one block, in several blocks, in
# several turns of those; classes beyond a block's threads.
@dtypes
@pytest.mark.parametrize("mean", [True, False], ids=["mean", "sum"])
@pytest.mark.parametrize(
    ("samples", "classes"),
    [(1, 1), (257, 4), (65, 5), (64, 10), (400, 10), (33, 64), (7, 65), (9, 100), (150, 129), (40, 1000), (3, 3001)],
)
@without_library
def test_shapes(backend: Backend, samples: int, classes: int, mean: bool, dtype: torch.dtype) -> None:
    check(backend, drawn(samples, classes, dtype, mean))


@pytest.mark.parametrize("mean", [True, False], ids=["mean", "sum"])
@pytest.mark.parametrize("samples", [0, 5, 600])
@without_library
def test_no_sample_counts(backend: Backend, samples: int, mean: bool) -> None:
    """The mean of none is no number, as in torch; the gradient is zero."""
    outputs, labels, _ = drawn(samples, 10)
    loss, gradient = check(backend, (outputs, torch.full_like(labels, -100), mean))
    assert loss.isnan() if mean else loss == 0
    assert not gradient.any()


@dtypes
@without_library
def test_labels_and_outputs_of_any_strides(backend: Backend, dtype: torch.dtype) -> None:
    outputs, labels, mean = drawn(70, 12, dtype)
    apart = torch.stack((labels, torch.full_like(labels, 1 << 40)), 1)[:, 0]
    for values in (outputs, outputs.T.contiguous().T, outputs.repeat(1, 2)[:, ::2], outputs[:1].expand(70, 12)):
        check(backend, (values, apart, mean))


@dtypes
@without_library
def test_large_outputs(backend: Backend, dtype: torch.dtype) -> None:
    """Whose exponentials overflow, each on its own, and of which the largest may stand anywhere."""
    for classes in (6, 70):
        outputs = 100 * torch.eye(classes, dtype=dtype).roll(1, 0) + 500
        check(backend, (torch.cat((outputs, -outputs)), torch.arange(2 * classes) % classes, True))


@dtypes
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@without_library
def test_what_is_no_number_stays_in_its_row(backend: Backend, value: float, dtype: torch.dtype) -> None:
    outputs, labels, _ = drawn(9, 40, dtype)
    outputs[3, 33] = value
    loss, gradient = check(backend, (outputs, labels, False))
    assert gradient[:3].isfinite().all()
    assert gradient[4:].isfinite().all()
    assert loss.isfinite() == (value == float("-inf"))


@pytest.mark.parametrize("label", [-1, -101, 10, 1 << 40, -(1 << 62)])
@without_library
def test_a_label_that_is_no_class_is_an_error(backend: Backend, label: int) -> None:
    if backend.name == "cuda":
        pytest.skip("it would stop the device")
    outputs, labels, mean = drawn(70, 10)
    labels[66] = label
    with pytest.raises(RuntimeError, match="labels: expected class indices"):
        backend.run("cross_entropy", (outputs, labels, mean))


@needs_emulator
@pytest.mark.parametrize(
    ("samples", "classes", "launches"), [(0, 10, 1), (64, 10, 1), (320, 10, 1), (400, 10, 2), (8, 512, 1), (9, 512, 2)]
)
def test_few_rows_are_one_launch(samples: int, classes: int, launches: int) -> None:
    device = emulator.device(emulator.kernels())
    emulator.run("cross_entropy", drawn(samples, classes), device)
    assert device.launches == launches
