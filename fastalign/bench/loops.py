"""Training steps as they are usually written: layers of torch.nn, a call for each term, and an optimizer of torch.

They are what a first version of a rule looks like; `fastalign.bench.plain` has the fastest plain PyTorch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastalign.bench.plain import LEARNING_RATE, MOMENTUM, Step
from fastalign.nn import Sequential

RULES = ("bp", "dfa", "pepita")


class DenseLoop:
    """Steps of a dense network of tanh units, which starts from the weights and the fixed matrices of another."""

    def __init__(self, network: Sequential) -> None:
        self.layers = [_layer_of_torch(m) for m in network.modules() if isinstance(m, torch.nn.Linear)]
        self.feedback = [b for b in network.feedback if b is not None]
        self.projection = network.projection
        parameters = [parameter for layer in self.layers for parameter in layer.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM, fused=True)

    def step(self, rule: str) -> Step:
        """Return the step of a rule, one of `RULES`."""
        return {"bp": self.backpropagation, "dfa": self.direct, "pepita": self.pepita}[rule]

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return x with the activities of the hidden layers, and the outputs."""
        h = [x]
        for layer in self.layers[:-1]:
            h.append(torch.tanh(layer(h[-1])))
        return h, self.layers[-1](h[-1])

    def backpropagation(self, x: Tensor, y: Tensor) -> Tensor:
        """Take a step of BP by autograd."""
        _, outputs = self.forward(x)
        loss = F.cross_entropy(outputs, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def direct(self, x: Tensor, y: Tensor) -> Tensor:
        """Take a step of DFA."""
        h, outputs = self.forward(x)
        error = _error(outputs, y)
        for layer, matrix, pre, post in zip(self.layers, self.feedback, h, h[1:], strict=False):
            _learn(layer, error @ matrix.T * (1 - post**2), pre)
        _learn(self.layers[-1], error, h[-1])
        self.optimizer.step()
        return F.cross_entropy(outputs, y)

    @torch.no_grad()
    def pepita(self, x: Tensor, y: Tensor) -> Tensor:
        """Take a step of PEPITA in two forward passes."""
        assert self.projection is not None
        h, outputs = self.forward(x)
        error = _error(outputs, y)
        h_mod, _ = self.forward(x + error @ self.projection.T)
        for layer, pre, standard, modulated in zip(self.layers, h_mod, h[1:], h_mod[1:], strict=False):
            _learn(layer, standard - modulated, pre)
        _learn(self.layers[-1], error, h_mod[-1])
        self.optimizer.step()
        return F.cross_entropy(outputs, y)


def _layer_of_torch(layer: torch.nn.Linear) -> torch.nn.Linear:
    """Return a layer of torch with the same numbers."""
    copied = torch.nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    copied.load_state_dict(layer.state_dict())
    return copied


def _error(outputs: Tensor, y: Tensor) -> Tensor:
    """Return ŷ − y of every sample."""
    return torch.softmax(outputs, 1) - F.one_hot(y, outputs.shape[1])


def _learn(layer: torch.nn.Linear, post: Tensor, pre: Tensor) -> None:
    """Leave the gradients of a layer, averaged over the batch, where the optimizer finds them."""
    layer.weight.grad = post.T @ pre / len(pre)
    if layer.bias is not None:
        layer.bias.grad = post.mean(0)
