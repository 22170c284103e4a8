"""Under BP a network is autograd's: the same outputs, the same gradients of parameters and of the input."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign.nn as nn
from fastalign.ops import reference

Loss = Callable[[Tensor], Tensor]


class FixedMask(torch.nn.Module):
    """Dropout whose mask is given."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.factor = torch.nn.Buffer(factor)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def twin(net: nn.Sequential, x: Tensor, seed: int) -> torch.nn.Sequential:
    """A copy for autograd; its dropout has the masks that the counter-based generator gives a pass after this seed."""
    torch.manual_seed(seed)
    modules: list[torch.nn.Module] = []
    h = x.detach()
    for module in copy.deepcopy(net):
        if isinstance(module, torch.nn.Dropout) and module.training:
            module = FixedMask(reference.dropout_factor(h, module.p, torch.randint(2**63 - 1, (1,))))
        modules.append(module)
        with torch.no_grad():
            h = copy.deepcopy(module)(h)
    return torch.nn.Sequential(*modules)


def assert_is_autograd(net: nn.Sequential, x: Tensor, loss: Loss, dtype: torch.dtype = torch.float64) -> None:
    net.set_rule("bp")
    net.to(dtype).zero_grad()
    x = x.to(dtype, copy=True).requires_grad_()
    plain_x = x.detach().clone().requires_grad_()
    plain = twin(net, x, seed=3)
    torch.manual_seed(3)
    output = net(x)
    plain_output = plain(plain_x)
    torch.testing.assert_close(output, plain_output)
    loss(output).backward()
    loss(plain_output).backward()
    for parameter, expected in zip(net.parameters(), plain.parameters(), strict=True):
        assert expected.grad is not None
        torch.testing.assert_close(parameter.grad, expected.grad)
    torch.testing.assert_close(x.grad, plain_x.grad)
    for buffer, expected_buffer in zip(net.buffers(), plain.buffers(), strict=False):
        if not any(isinstance(module, FixedMask) for module in plain):
            torch.testing.assert_close(buffer, expected_buffer)


def cross_entropy(output: Tensor) -> Tensor:
    output = output.flatten(1)
    return F.cross_entropy(output, torch.arange(len(output)) % output.shape[1])


def squares(output: Tensor) -> Tensor:
    return F.mse_loss(output, torch.linspace(0, 1, output.numel(), dtype=output.dtype).reshape(output.shape))


def negative_log_likelihood(output: Tensor) -> Tensor:
    return F.nll_loss(output, torch.arange(len(output)) % output.shape[1])


X = torch.rand(5, 8, generator=torch.Generator().manual_seed(0))
X3 = torch.rand(5, 3, 8, generator=torch.Generator().manual_seed(1))
IMAGES = torch.rand(3, 2, 9, 10, generator=torch.Generator().manual_seed(2))

NETWORKS: dict[str, tuple[Callable[[], list[torch.nn.Module]], Tensor, Loss]] = {
    "one layer": (lambda: [nn.Linear(8, 4)], X, cross_entropy),
    "dense": (
        lambda: [nn.Linear(8, 7, activation="tanh"), nn.Linear(7, 6, bias=False), nn.GELU(), nn.Linear(6, 4)],
        X,
        cross_entropy,
    ),
    "identities": (lambda: [nn.Linear(8, 7), nn.Identity(), nn.Linear(7, 6), nn.Linear(6, 4)], X, cross_entropy),
    "dropout": (
        lambda: [nn.Dropout(0.2), nn.Linear(8, 30), nn.SiLU(), nn.Dropout(0.5), nn.Linear(30, 4), nn.Dropout(0.1)],
        X,
        cross_entropy,
    ),
    "dropout of outputs": (
        lambda: (
            [
                nn.Linear(8, 30, activation="softplus"),
                nn.Dropout(0.5),
                nn.Linear(30, 20),
                nn.ELU(),
                nn.Dropout(0.3),
                nn.Linear(20, 4),
            ]
        ),
        X,
        cross_entropy,
    ),
    "several activations": (
        lambda: [nn.Linear(8, 7, activation="tanh"), nn.ReLU(), nn.Hardtanh(), nn.Dropout(0.3), nn.Linear(7, 4)],
        X,
        cross_entropy,
    ),
    "activations with settings": (
        lambda: (
            [
                nn.Linear(8, 7),
                nn.LeakyReLU(0.3),
                nn.Linear(7, 7),
                nn.ELU(0.5),
                nn.Linear(7, 7),
                nn.Softplus(2.0),
                nn.Linear(7, 4),
                nn.GELU("tanh"),
            ]
        ),
        X,
        cross_entropy,
    ),
    "in place": (
        lambda: [
            nn.Linear(8, 7),
            nn.ReLU6(inplace=True),
            nn.LeakyReLU(0.3, inplace=True),
            nn.Linear(7, 6),
            nn.Block(torch.nn.Sequential(nn.ELU(inplace=True), nn.Linear(6, 4))),
            nn.Hardtanh(inplace=True),
        ],
        X,
        cross_entropy,
    ),
    "stride, padding, dilation": (
        lambda: [nn.Conv2d(2, 4, 3, stride=2, padding=2, dilation=2), nn.Tanh(), nn.Flatten(), nn.Linear(100, 4)],
        IMAGES,
        cross_entropy,
    ),
    "groups and same": (
        lambda: (
            [
                nn.Conv2d(2, 4, (3, 5), padding="same", activation="relu"),
                nn.Conv2d(4, 6, 3, groups=2, bias=False),
                nn.ELU(),
                nn.Conv2d(6, 6, 3, groups=6, padding=(0, 1)),
                nn.Flatten(),
                nn.Linear(240, 4),
            ]
        ),
        IMAGES,
        cross_entropy,
    ),
    "overlapping max-pool": (
        lambda: (
            [nn.Conv2d(2, 4, 3, activation="tanh"), nn.MaxPool2d(3, 2), nn.Dropout(0.3), nn.Flatten(), nn.Linear(36, 4)]
        ),
        IMAGES,
        cross_entropy,
    ),
    "other pooling": (
        lambda: (
            [
                nn.Conv2d(2, 4, 3),
                nn.AvgPool2d(3, 2),
                nn.ReLU(),
                nn.Conv2d(4, 5, 2),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(5, 4),
            ]
        ),
        IMAGES,
        cross_entropy,
    ),
    "reflecting padding": (
        lambda: [nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.Flatten(), nn.Linear(360, 4)],
        IMAGES,
        cross_entropy,
    ),
    "batch norm": (
        lambda: (
            [
                nn.Conv2d(2, 4, 3),
                nn.BatchNorm2d(4),
                nn.ReLU(inplace=True),
                nn.Flatten(),
                nn.Linear(224, 6),
                nn.BatchNorm1d(6),
                nn.Tanh(),
                nn.Linear(6, 4),
            ]
        ),
        IMAGES,
        cross_entropy,
    ),
    "batch norm, eval": (
        lambda: [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4).eval(), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(224, 4)],
        IMAGES,
        cross_entropy,
    ),
    "batch norm first": (lambda: [nn.BatchNorm1d(8), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)], X, cross_entropy),
    "layer norm, PReLU": (
        lambda: [nn.Linear(8, 6), nn.LayerNorm(6), nn.PReLU(), nn.Linear(6, 4), nn.LayerNorm(4)],
        X,
        cross_entropy,
    ),
    "softmax": (lambda: [nn.Linear(8, 6, activation="elu"), nn.Linear(6, 4), nn.Softmax(1)], X, squares),
    "log-softmax": (
        lambda: [nn.Linear(8, 6, activation="leaky_relu"), nn.Linear(6, 4), nn.LogSoftmax(1)],
        X,
        negative_log_likelihood,
    ),
    "output activation": (lambda: [nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4, activation="sigmoid")], X, squares),
    "three dimensions": (
        lambda: [nn.Linear(8, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 5, activation="relu"), nn.Linear(5, 4)],
        X3,
        squares,
    ),
    "three dimensions, output activation": (
        lambda: [nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh()],
        X3,
        squares,
    ),
    "convolution as output": (
        lambda: [nn.Conv2d(2, 4, 3, activation="tanh"), nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        IMAGES,
        cross_entropy,
    ),
    "nested": (
        lambda: [nn.Sequential(nn.Linear(8, 6), nn.Tanh()), torch.nn.Sequential(nn.Dropout(0.0), nn.Linear(6, 4))],
        X,
        cross_entropy,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_bp_is_autograd(name: str) -> None:
    modules, x, loss = NETWORKS[name]
    torch.manual_seed(0)
    assert_is_autograd(nn.Sequential(*modules()), x, loss)


@pytest.mark.parametrize("name", ["dense", "overlapping max-pool", "batch norm"])
def test_bp_is_autograd_in_float32(name: str) -> None:
    modules, x, loss = NETWORKS[name]
    torch.manual_seed(0)
    assert_is_autograd(nn.Sequential(*modules()), x, loss, torch.float32)


def test_one_module_twice() -> None:
    """A layer that stands in two places gets the sum of both gradients."""
    torch.manual_seed(0)
    shared, norm = nn.Linear(6, 6), nn.LayerNorm(6)
    modules = [nn.Linear(8, 6), norm, nn.Tanh(), shared, norm, nn.Tanh(), shared, norm, nn.Tanh(), nn.Linear(6, 4)]
    assert_is_autograd(nn.Sequential(*modules), X, cross_entropy)
    assert_is_autograd(nn.Sequential(nn.Linear(8, 6), norm, nn.Tanh(), norm, nn.Linear(6, 4)), X, cross_entropy)


def test_channels_last_and_strided_inputs() -> None:
    modules, x, loss = NETWORKS["overlapping max-pool"]
    torch.manual_seed(0)
    net = nn.Sequential(*modules())
    assert_is_autograd(net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last), loss)  # type: ignore[call-overload]
    assert_is_autograd(nn.Sequential(nn.Linear(8, 4)), torch.rand(8, 5).T, loss)


def test_zero_padding_that_is_uneven_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 2, padding="same"), nn.Flatten(), nn.Linear(360, 4), rule="bp")
    with pytest.raises(
        ValueError, match=r"padding: 'same' with kernel \(2, 2\) .* pads unevenly; expected an odd kernel"
    ):
        net(IMAGES)


POOLED = torch.rand(3, 2, 12, 21, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("inplace", [False, True])
def test_back_through_pooling_dropout_and_activation(stride: int, padding: int, dilation: int, inplace: bool) -> None:
    pool = nn.MaxPool2d(3, stride, padding, dilation)
    assert_is_autograd(
        nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.ReLU(),
            nn.Dropout(0.5),
            pool,
            nn.ReLU(inplace=inplace),
            nn.Flatten(),
            nn.Linear(pool(torch.zeros(1, 4, 10, 19)).numel(), 4),
        ),
        POOLED,
        cross_entropy,
    )


def test_pooling_takes_what_torch_takes() -> None:
    """Numbers in a tuple of one, or of NumPy."""
    for window in ({"kernel_size": (2,)}, {"kernel_size": np.int64(2), "stride": (2,), "padding": (1,)}):
        pool: Any = nn.MaxPool2d(**window)
        size = pool(torch.zeros(1, 4, 10, 19)).numel()
        assert_is_autograd(
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), pool, nn.Flatten(), nn.Linear(size, 4)), POOLED, cross_entropy
        )


class HalvedPool(torch.nn.MaxPool2d):
    """A pooling with a forward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


def test_other_poolings_run_their_own_code() -> None:
    def net(pool: torch.nn.Module) -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), pool, nn.Flatten(), nn.Linear(180, 4), rule="bp")

    assert_is_autograd(net(HalvedPool(2)), POOLED, cross_entropy)
    replaced: Any = torch.nn.MaxPool2d(2)
    replaced.forward = HalvedPool(2).forward
    assert torch.equal(net(replaced)(POOLED), net(HalvedPool(2))(POOLED))
    calls: list[object] = []
    hooked = torch.nn.MaxPool2d(2)
    hooked.register_forward_hook(lambda *values: calls.append(values))
    assert_is_autograd(net(hooked), POOLED, cross_entropy)
    assert calls


def test_pooling_under_autocast() -> None:
    """The signal and the map are of other dtypes than the parameters."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(180, 4), rule="bp")
    plain = torch.nn.Sequential(*copy.deepcopy(list(net)))
    for network in (net, plain):
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(network(POOLED).float())
        loss.backward()
    for parameter, expected in zip(net.parameters(), plain.parameters(), strict=True):
        assert parameter.grad is not None
        assert expected.grad is not None
        assert torch.dist(parameter.grad, expected.grad) < 0.05 * expected.grad.norm()
