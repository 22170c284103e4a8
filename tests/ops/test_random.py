"""The counter-based generator, and the dropout made of it."""

from __future__ import annotations

import pytest
import torch
from cases import BACKENDS, DTYPES, Backend, needs_native, without_library

from fastalign.ops import reference
from fastalign.ops.activations import Activation


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
    """Philox4x32-10 as its paper writes it."""
    low = 0xFFFFFFFF
    for _ in range(10):
        product0, product1 = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = (
            (product1 >> 32) ^ counter[1] ^ key[0],
            product1 & low,
            (product0 >> 32) ^ counter[3] ^ key[1],
            product0 & low,
        )
        key = ((key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low)
    return list(counter)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(counter: str, key: str, words: str) -> None:
    """The three vectors that the generator's authors publish."""

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(word, 16) for word in text.split())

    key0, key1 = numbers(key)
    assert philox(numbers(counter), (key0, key1)) == list(numbers(words))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**31 + 5, 2**63 - 1, -(2**63)])
def test_reference_words(seed: int) -> None:
    words = reference.random_words(11, torch.tensor([seed])).tolist()
    key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
    assert words == [word for counter in range(3) for word in philox((counter, 0, 0, 0), key)][:11]


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63), 1234567890123456789])
@pytest.mark.parametrize("p", [2**-32, 0.1, 0.5, 0.9, 1 - 2**-32, 1.0])
@without_library
def test_dropped_elements(backend: Backend, p: float, seed: int) -> None:
    key = torch.tensor([seed])
    for count in (1, 3, 509, 4099):
        (actual,) = backend.run("activation_forward", (torch.ones(count), Activation.IDENTITY, p, key))
        expected = reference.dropout_factor(torch.ones(count), p, key)
        assert torch.equal(actual == 0, expected == 0)
        assert torch.allclose(actual, expected, rtol=1e-6)


@without_library
def test_threshold(backend: Backend) -> None:
    """An element is kept from its word / 2³² being p on: at exactly that p, not beyond it."""
    key = torch.tensor([5])
    for i, word in enumerate(reference.random_words(64, key).tolist()):
        for p, kept in ((word / 2**32, True), ((word + 1) / 2**32, False)):
            (h,) = backend.run("activation_forward", (torch.ones(64), Activation.IDENTITY, p, key))
            assert (h[i].item() != 0) == kept


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_all_ops_drop_the_same_elements(backend: Backend, dtype: torch.dtype) -> None:
    """One seed, one shape: one mask, whatever computes the layer and however wide its product."""
    samples, units, seed = 21, 101, torch.tensor([99])
    ones = torch.ones(samples, units, dtype=dtype)
    kept = reference.dropout_factor(ones, 0.3, seed) != 0
    tail = (Activation.IDENTITY, 0.3, seed)
    for inputs in (3, 300):
        x, weight = torch.ones(samples, inputs, dtype=dtype), torch.ones(units, inputs, dtype=dtype)
        calls = [
            ("activation_forward", (ones, *tail)),
            ("activation_difference", (ones, ones, *tail)),
            ("activation_backward", (ones, ones, Activation.IDENTITY, True, 0.3, seed)),
            ("feedback_term", (x, weight, ones, Activation.IDENTITY, False, 0.3, seed)),
            ("linear_forward", (x, weight, None, *tail, False)),
            ("linear_difference", (x, weight, ones, *tail)),
        ]
        for op, values in calls:
            assert torch.equal(backend.run(op, values)[0] != 0, kept), op


@without_library
def test_rate(backend: Backend) -> None:
    """A million draws: the share that is kept is 1 − p within five standard deviations, and the mean stays."""
    (h,) = backend.run("activation_forward", (torch.ones(1000, 1000), Activation.IDENTITY, 0.2, torch.tensor([3])))
    deviation = (0.2 * 0.8 / 1e6) ** 0.5
    assert abs((h != 0).double().mean().item() - 0.8) < 5 * deviation
    assert abs(h.double().mean().item() - 1) < 5 * deviation / 0.8


@without_library
def test_dropped_infinities_become_nan(backend: Backend) -> None:
    """A factor of 0 is multiplied, not chosen, as in plain PyTorch."""
    (h,) = backend.run(
        "activation_forward", (torch.full((100,), torch.inf), Activation.IDENTITY, 0.5, torch.tensor([3]))
    )
    dropped = reference.dropout_factor(torch.ones(100), 0.5, torch.tensor([3])) == 0
    assert torch.equal(h.isnan(), dropped)


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
def test_dropout_without_a_seed_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="seed"):
        BACKENDS["cpu"].run("activation_forward", (torch.ones(3), Activation.IDENTITY, 0.5, None))
