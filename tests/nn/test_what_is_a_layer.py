"""What a rule gives an update of its own: modules with weight matrices, not scales and shifts of any shape."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parametrizations, prune

import fastalign
import fastalign.nn as nn

X = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
MAPS = torch.rand(6, 2, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(6) % 4


class Scale(torch.nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full(shape, 1.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Matrix(Scale):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.scale


class Wide(torch.nn.Linear):
    pass


class Norm(torch.nn.LayerNorm):
    pass


class Last(torch.nn.Module):
    def __init__(self, recurrent: torch.nn.Module) -> None:
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.recurrent(x.unsqueeze(1))[0]
        return found[:, -1]


class Pair(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.product = torch.nn.Bilinear(8, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.product(x, x)
        return found


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unsqueeze(1)
        found: Tensor = self.attention(tokens, tokens, tokens)[0]
        return found[:, 0]


NO_LAYERS: dict[str, Callable[[], torch.nn.Module]] = {
    "0-d": Scale,
    "one": lambda: Scale(1),
    "one, 2-d": lambda: Scale(1, 1),
    "one for each unit": lambda: Scale(8),
    "a row": lambda: Scale(1, 8),
    "norm": lambda: nn.LayerNorm(8),
    "subclass of a norm": lambda: Norm(8),
    "within a chain": lambda: torch.nn.Sequential(nn.RMSNorm(8), Scale(1, 1)),
}
NO_LAYERS_OF_MAPS: dict[str, Callable[[], torch.nn.Module]] = {
    "one for each channel": lambda: Scale(2, 1, 1),
    "one for each channel, 4-d": lambda: Scale(1, 2, 1, 1),
    "norm of maps": lambda: nn.LayerNorm([2, 6, 6]),
    "subclass of a norm of maps": lambda: Norm([2, 6, 6]),
    "norm of batches": lambda: nn.BatchNorm2d(2),
    "norm of groups": lambda: nn.GroupNorm(1, 2),
}
LAYERS: dict[str, Callable[[], torch.nn.Module]] = {
    "one unit": lambda: Wide(8, 1),
    "one weight": lambda: Wide(1, 1),
    "matrix": lambda: Matrix(8, 8),
    "matrix within": lambda: torch.nn.ModuleDict({"deep": torch.nn.ModuleDict({"er": Matrix(8, 8)})}),
    "block without weights": lambda: nn.Block(nn.Identity()),
    "bilinear": Pair,
    "attention": Attention,
    "recurrent": lambda: Last(nn.GRU(8, 8)),
    "recurrent cell": lambda: nn.RNNCell(8, 8),
    "transposed convolution": lambda: nn.ConvTranspose1d(1, 1, 1),
    "embedding of one number": lambda: nn.Embedding(8, 1),
    "weight norm": lambda: parametrizations.weight_norm(Wide(8, 1)),
    "pruned": lambda: prune.identity(Wide(8, 1), "weight"),
}


@pytest.mark.parametrize("name", NO_LAYERS)
def test_scales_after_the_logits_belong_to_the_output_layer(name: str) -> None:
    """The output layer has its true gradient, and so has the scale."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 8), NO_LAYERS[name](), rule="dfa")
    assert len(net.layer_rules) == 2
    plain = torch.nn.Sequential(*net)
    parameters = [p for module in (net[2], net[3]) for p in module.parameters()]
    true = torch.autograd.grad(F.cross_entropy(plain(X), Y), parameters)
    F.cross_entropy(net(X), Y).backward()
    torch.testing.assert_close([p.grad for p in parameters], list(true))


@pytest.mark.parametrize("name", NO_LAYERS_OF_MAPS)
def test_scales_of_maps_belong_to_the_layer_before_them(name: str) -> None:
    torch.manual_seed(0)
    modules = [nn.Conv2d(2, 2, 1), NO_LAYERS_OF_MAPS[name](), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)]
    net = nn.Sequential(*modules, rule="bp")
    assert len(net.layer_rules) == 2
    true = torch.autograd.grad(F.cross_entropy(torch.nn.Sequential(*net)(MAPS), Y), list(net.parameters()))
    F.cross_entropy(net(MAPS), Y).backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], list(true))


@pytest.mark.parametrize("name", LAYERS)
def test_modules_with_weights_are_layers(name: str) -> None:
    net = nn.Sequential(nn.Linear(8, 8), LAYERS[name](), nn.Linear(8, 4), rule="bp")
    assert len(net.layer_rules) == 3


def test_scales_before_the_first_layer_are_a_layer() -> None:
    """There is none to which they could belong."""
    net = nn.Sequential(Scale(1, 8), nn.Linear(8, 4), rule="bp")
    assert len(net.layer_rules) == 2


class Scaled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = torch.nn.Linear(8, 4), torch.nn.Parameter(torch.ones(1, 1))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x) * self.scale.exp() + x.mean()
        return found


class Residual(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.upper(torch.tanh(self.lower(x)))


def test_convert_counts_the_same_layers() -> None:
    """A scale of shape (1, 1) within a block is no second layer; two layers in one block are."""
    net = fastalign.convert(Scaled(), "bp")
    assert len(net.layer_rules) == 1
    with pytest.raises(ValueError, match="all weights of Residual are in one block"):
        fastalign.convert(Residual(), "bp")
