"""Networks whose first module takes indices of tokens, wherever in it they are looked up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign
import fastalign.nn as nn

TOKENS = torch.randint(20, (5, 6), generator=torch.Generator().manual_seed(0))
Y = torch.arange(5) % 4


class Positions(torch.nn.Module):
    """Tokens and where they stand."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = torch.nn.Embedding(20, 4), torch.nn.Parameter(torch.rand(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.tokens(x) + self.positions
        return found


class OneHot(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot(x, 4 * 5).float()[:, :, :4]


class Table(torch.nn.Module):
    """Rows of a fixed table, which an index that is no integer cannot ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.rand(20, 4))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.get_buffer("table")[x]
        return found


class Bits(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([(x >> i) & 1 for i in range(4)], -1).float()


FIRST: dict[str, Callable[[], torch.nn.Module]] = {
    "embedding": lambda: nn.Embedding(20, 4),
    "block": lambda: nn.Block(nn.Embedding(20, 4)),
    "positions": Positions,
    "block of positions": lambda: nn.Block(Positions()),
    "in a chain": lambda: torch.nn.Sequential(torch.nn.Identity(), Positions()),
    "one-hot": OneHot,
    "table": Table,
    "bits": Bits,
}


def layers(name: str) -> list[torch.nn.Module]:
    return [FIRST[name](), nn.Flatten(), nn.Linear(24, 7), nn.Tanh(), nn.Linear(7, 4)]


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "drtp"])
def test_networks_of_tokens(name: str, rule: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*layers(name), rule=rule, input_shape=(6,))
    true = torch.autograd.grad(F.cross_entropy(torch.nn.Sequential(*net)(TOKENS), Y), list(net.parameters()))
    F.cross_entropy(net(TOKENS, Y), Y).backward()
    found = [p.grad for p in net.parameters()]
    assert all(gradient is not None and gradient.any() for gradient in found)
    torch.testing.assert_close(found[-2:], list(true[-2:]))
    if rule in ("bp", "fa"):
        torch.testing.assert_close(found, list(true))
    if rule in ("dfa", "drtp"):
        assert net.feedback[-1] is not None
        assert net.feedback[-1].shape == (7, 4)


@pytest.mark.parametrize("name", ["positions", "one-hot"])
def test_converted_networks_of_tokens(name: str) -> None:
    net = fastalign.convert(torch.nn.Sequential(*layers(name)), "dfa", (6,))
    F.cross_entropy(net(TOKENS), Y).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_pepita_needs_an_input_to_which_it_can_add() -> None:
    with pytest.raises(ValueError, match=r"rule: PEPITA adds F e to the input, and this network takes integers"):
        nn.Sequential(*layers("one-hot"), rule="pepita", input_shape=(6,))


def test_samples_that_fit_in_no_dtype() -> None:
    with pytest.raises(ValueError, match=r"input_shape: .* samples of shape \(9,\): .*; nor, of integers: .*9.*"):
        nn.Sequential(*layers("positions"), rule="dfa", input_shape=(9,))
