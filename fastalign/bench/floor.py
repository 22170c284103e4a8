"""What a step cannot do without: its products, and what its rule needs besides them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from fastalign.bench.measure import Run
from fastalign.bench.plain import LEARNING_RATE, MOMENTUM
from fastalign.nn import Sequential
from fastalign.ops.activations import Activation
from fastalign.ops.schemas import kernels

aten = torch.ops.aten


def products(network: torch.nn.Module, x: Tensor, rule: str) -> Run:
    """The products by the library, ΔW into the momentum, a pass over W and V.

    Forward products; the products that take an error back for BP and FA; PEPITA's second pass of all layers but
    the first, whose second pass is a product with as many columns as classes. δ and h are given.
    """
    h, layers = x, []
    with torch.no_grad():
        for module in network.children():
            pre, h = h, module(h)
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                layers.append(_Products(module.weight.detach().clone(), pre, torch.randn_like(h)))

    @torch.no_grad()
    def run() -> None:
        for number, layer in enumerate(layers):
            layer.forward(again=rule == "pepita" and 0 < number < len(layers) - 1)
            layer.update(goes_back=rule in ("bp", "fa") and number > 0)

    return run


class _Products:
    """The products of one layer, with a pass over W and V."""

    def __init__(self, weight: Tensor, pre: Tensor, post: Tensor) -> None:
        self.weight, self.velocity = weight, torch.zeros_like(weight)
        self.pre, self.post, self.out = pre, post, torch.empty_like(post)

    def forward(self, again: bool) -> None:
        for _ in range(1 + again):
            if self.weight.dim() == 4:
                F.conv2d(self.pre, self.weight)
            else:
                torch.mm(self.pre, self.weight.t(), out=self.out)

    def update(self, goes_back: bool) -> None:
        if goes_back:
            torch.mm(self.post, self.weight)
        if self.weight.dim() == 4:
            update = conv2d_weight(self.pre, self.weight.shape, self.post)
            self.velocity.mul_(MOMENTUM).add_(update)
        else:
            self.velocity.addmm_(self.post.t(), self.pre, beta=MOMENTUM)
        self.weight.sub_(self.velocity, alpha=LEARNING_RATE)


def passes(network: Sequential, x: Tensor, y: Tensor, rule: str) -> Iterator[tuple[str, Run]]:
    """What a step of a dense network has besides, by part, each by the fastest call that is known for it.

    Those of torch for activations, what follows from signals and differences that are given, and biases; those of
    fastalign for the loss with its error and for products with a fixed matrix: DFA's and DRTP's δ, PEPITA's x + F e and
    first Δh, with W_1 F given.
    """
    layers = [module for module in network if isinstance(module, torch.nn.Linear)]
    tanh = isinstance(network[1], torch.nn.Tanh)
    activation = int(Activation.TANH if tanh else Activation.RELU)
    outputs = network(x, y).detach()
    yield "loss", partial(kernels.cross_entropy, outputs, y, True)
    _, error = kernels.cross_entropy(outputs, y, rule != "pepita")  # which takes that of a sample
    h = x
    for layer, feedback in zip(layers, (*network.feedback, None), strict=True):
        weight, first = layer.weight.detach(), layer is layers[0]
        pre, a = h, F.linear(h, weight, layer.bias).detach()
        delta, signal = torch.randn_like(a), torch.randn_like(a)
        if layer.bias is not None:
            bias = layer.bias.detach().clone()
            yield (
                "biases",
                partial(_step_bias, bias, torch.zeros_like(bias), a, torch.empty_like(a), a.new_ones(len(a))),
            )
        if rule == "pepita" and first:
            yield "modulation", partial(kernels.modulate_input, x, error, network.projection, 1.0)
        elif rule == "pepita":
            yield "modulation", partial(torch.add, pre, torch.randn_like(pre), out=torch.empty_like(pre))
        if layer is layers[-1]:
            return
        h = torch.empty_like(a)
        activate = partial(torch.tanh, a, out=h) if tanh else partial(torch.clamp_min, a, 0.0, out=h)
        activate()
        yield "activations", activate
        if rule == "pepita" and first:
            assert network.projection is not None
            folded = weight @ network.projection
            yield "postsynaptic", partial(kernels.linear_difference, error, folded, a, activation, 0.0, None)
        elif rule == "pepita":
            yield "postsynaptic", partial(kernels.activation_difference, a, signal, activation, 0.0, None)
        elif rule in ("dfa", "drtp"):
            yield "postsynaptic", partial(kernels.feedback_term, error, feedback, h, activation, True, 0.0, None)
        elif tanh:
            yield "postsynaptic", partial(aten.tanh_backward.grad_input, signal, h, grad_input=delta)
        else:
            yield "postsynaptic", partial(aten.threshold_backward.grad_input, signal, h, 0, grad_input=delta)


def _step_bias(bias: Tensor, velocity: Tensor, post: Tensor, out: Tensor, ones: Tensor) -> None:
    """a + b, Σ post into the momentum, and b's step."""
    torch.add(post, bias, out=out)
    velocity.addmv_(post.t(), ones, beta=MOMENTUM)
    bias.sub_(velocity, alpha=LEARNING_RATE)
