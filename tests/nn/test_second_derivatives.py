"""Derivatives of gradients: under BP they are autograd's; under other rules there are none, and it is said."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

import fastalign.nn as nn

OTHERS = ["fa", "dfa", "ifa", "drtp", "pepita"]
X = torch.rand(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
IMAGES = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.tensor([0, 3, 1, 1, 2, 0])


class Residual(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(x))


NETWORKS: dict[str, tuple[Callable[[], list[torch.nn.Module]], Tensor]] = {
    "dense": (lambda: [nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 6, activation="softplus"), nn.Linear(6, 4)], X),
    "block": (lambda: [nn.Linear(8, 7), nn.SiLU(), nn.Block(Residual()), nn.LayerNorm(7), nn.Linear(7, 4)], X),
    "nested, with dropout in eval mode": (
        lambda: [torch.nn.Sequential(nn.Linear(8, 7), nn.Sigmoid()), nn.Dropout(0.5).eval(), nn.Linear(7, 4)],
        X,
    ),
    "convolutions": (
        lambda: [
            nn.Conv2d(2, 3, 3, activation="tanh"),
            nn.BatchNorm2d(3).eval(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(27, 4),
        ],
        IMAGES,
    ),
}


def network(name: str = "dense") -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*NETWORKS[name][0](), rule="bp").double()


def plain_of(net: nn.Sequential) -> torch.nn.Sequential:
    return torch.nn.Sequential(*copy.deepcopy(list(net)))


def gradient_penalty(net: Any, x: Tensor) -> Tensor:
    """WGAN-GP: linear in the output, then the norm of its slope."""
    x = x.clone().requires_grad_()
    score = net(x)[:, 0]
    (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    return score.mean() + 10 * (slope.flatten(1).norm(dim=1) - 1).square().mean()


def residual(net: Any, x: Tensor) -> Tensor:
    """As in physics-informed networks: second derivatives by the input."""
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    return (second.flatten(1).sum(1) + net(x)[:, 0].square()).square().mean()


def gradient_norm(net: Any, x: Tensor) -> Tensor:
    """A penalty on the gradient of the weights; x asks for none."""
    loss = F.cross_entropy(net(x), Y[: len(x)])
    slopes = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
    return torch.stack([slope.square().sum() for slope in slopes]).sum()


def through_a_generator(net: Any, x: Tensor) -> Tensor:
    """x itself has a graph, which the derivatives pass through."""
    scale = torch.linspace(0.5, 1.5, x[0].numel(), dtype=x.dtype).reshape(x[0].shape).requires_grad_()
    (slope,) = torch.autograd.grad(net(x * scale).sum(), scale, create_graph=True)
    return slope.square().sum()


@pytest.mark.parametrize("loss", [gradient_penalty, residual, gradient_norm, through_a_generator])
@pytest.mark.parametrize("name", NETWORKS)
def test_losses_of_gradients(name: str, loss: Callable[[Any, Tensor], Tensor]) -> None:
    net = network(name)
    x = NETWORKS[name][1]
    plain = plain_of(net)
    found, expected = loss(net, x), loss(plain, x)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    assert any(p.grad is not None and p.grad.norm() > 0 for p in plain.parameters())
    torch.testing.assert_close([p.grad for p in net.parameters()], [p.grad for p in plain.parameters()])


def test_functional_derivatives() -> None:
    net = network()
    plain = plain_of(net)
    for derive in (torch.autograd.functional.hessian, torch.autograd.functional.hvp):
        arguments = (X[:2], X[2:4]) if derive is torch.autograd.functional.hvp else (X[:2],)
        found = derive(lambda z: net(z).square().sum(), *arguments)
        torch.testing.assert_close(found, derive(lambda z: plain(z).square().sum(), *arguments))
    for vectorize in (False, True):
        found = torch.autograd.functional.hessian(lambda z: net(z).square().sum(), X[:2], vectorize=vectorize)
        torch.testing.assert_close(found, torch.autograd.functional.hessian(lambda z: plain(z).square().sum(), X[:2]))
    torch.testing.assert_close(torch.autograd.functional.jvp(net, X, X), torch.autograd.functional.jvp(plain, X, X))
    assert torch.autograd.gradgradcheck(net, X[:2].clone().requires_grad_())


def test_parameters_given_for_one_call() -> None:
    """One step of MAML: the derivatives are those of the parameters given, which the modules no longer hold."""
    net = network()
    found = []
    for module in (net, plain_of(net)):
        given = {name: (p.detach() * 1.5).requires_grad_() for name, p in module.named_parameters()}
        inner = F.cross_entropy(functional_call(module, given, (X,)), Y)
        slopes = torch.autograd.grad(inner, list(given.values()), create_graph=True)
        moved = {name: p - 0.3 * g for (name, p), g in zip(given.items(), slopes, strict=True)}
        F.cross_entropy(functional_call(module, moved, (X,)), Y.flip(0)).backward()
        found.append([p.grad for p in given.values()])
    torch.testing.assert_close(*found)


def test_frozen_and_shared_layers() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(8, 8)
    net = nn.Sequential(shared, nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), shared, rule="bp").double()
    net[2].requires_grad_(False)
    plain = torch.nn.Sequential(*(copy.deepcopy(m) for m in net))
    plain[4] = plain[0]
    for module in (net, plain):
        gradient_penalty(module, X).backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], [p.grad for p in plain.parameters()])


def test_autocast_of_the_forward_pass() -> None:
    net = network().float()
    plain = plain_of(net)
    found = []
    for module in (net, plain):
        x = X.float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            score = module(x).sum()
        (slope,) = torch.autograd.grad(score, x, create_graph=True)
        slope.square().sum().backward()
        found.append([slope, *(p.grad for p in module.parameters())])
    torch.testing.assert_close(*found)


def test_backpropagation_beside_another_rule() -> None:
    net = network()
    plain = plain_of(net)
    net.set_rule("dfa")
    torch.testing.assert_close(gradient_penalty(net.with_backpropagation, X), gradient_penalty(plain, X))


@pytest.mark.parametrize("loss", [lambda output: F.cross_entropy(output, Y), torch.sum], ids=["curved", "linear"])
@pytest.mark.parametrize("rule", OTHERS)
def test_other_rules_have_none(rule: str, loss: Callable[[Tensor], Tensor]) -> None:
    """Whether or not the loss's gradient depends on the output."""
    net = network()
    net.set_rule(rule)
    slopes = torch.autograd.grad(loss(net(X, Y)), list(net.parameters()), create_graph=True)
    penalty = torch.stack([slope.square().sum() for slope in slopes]).sum()
    with pytest.raises(RuntimeError, match=rf"{rule.upper()}\(.* are no derivatives and have none.*need rule='bp'"):
        penalty.backward()


def test_what_a_second_run_would_change_is_refused() -> None:
    """By the name of the module: another mask of dropout, statistics that move twice."""

    class Noise(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    def build(*middle: torch.nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.Linear(8, 7), nn.Tanh(), *middle, nn.Linear(7, 4), rule="bp").double()

    refused = {
        "Dropout: create_graph=True .*, which draws other random numbers; set the module to eval": nn.Dropout(0.5),
        "Dropout: ": nn.Block(torch.nn.Sequential(nn.Linear(7, 7), nn.Dropout(0.1))),
        "Noise: .* draws": Noise(),
        "BatchNorm1d: .* change its buffers twice": nn.BatchNorm1d(7),
    }
    for message, module in refused.items():
        net = build(module)
        state = copy.deepcopy(net.state_dict())
        with pytest.raises(RuntimeError, match=message):
            gradient_penalty(net, X)
        if isinstance(module, nn.BatchNorm1d):
            assert net.get_buffer("2.num_batches_tracked") == state["2.num_batches_tracked"] + 1
        if not isinstance(module, Noise):
            gradient_penalty(net.eval(), X).backward()
