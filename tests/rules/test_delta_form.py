"""How accurate the differences of activity are that PEPITA's networks use."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign.nn as nn
from fastalign import initialise
from fastalign.nn.run import NetworkStep, StepFunction


class Recorded(NetworkStep):
    """A step that keeps the postsynaptic terms of its updates."""

    def updates(self, kept, output_gradient):  # type: ignore[no-untyped-def]
        self.posts = []
        for update in super().updates(kept, output_gradient):
            self.posts.append(update.post)
            yield update


def differences(net: nn.Sequential, x: Tensor, target: Tensor) -> list[Tensor]:
    """Δh of the hidden layers, as the network computes them in a training step."""
    step = Recorded(net._stages(), net.layer_rules, net.feedback, net.projection, None)
    F.cross_entropy(StepFunction.apply(step, x, *step.parameters), target).backward()
    return step.posts[:-1]


def of_two_passes(net: nn.Sequential, x: Tensor, target: Tensor, classes: int) -> list[Tensor]:
    """h_mod − h in the naive form: a pass on x, another on x + F e."""
    hidden = list(net)[:-1]
    standard, modulated, found = [x], [x], []
    for layer in hidden:
        standard.append(layer(standard[-1]))
    error = (torch.softmax(net[-1](standard[-1]), 1) - F.one_hot(target, classes)).to(x.dtype)
    assert net.projection is not None
    modulated = [x + error @ net.projection.T]
    for layer, h in zip(hidden, standard[1:], strict=True):
        modulated.append(layer(modulated[-1]))
        found.append(modulated[-1] - h)
    return found


@pytest.mark.parametrize(("dtype", "gain"), [(torch.bfloat16, 20), (torch.float32, 5)], ids=str)
def test_the_delta_form_is_more_accurate(dtype: torch.dtype, gain: float) -> None:
    """Its error is at most a twentieth of the naive form's in bfloat16, a fifth in float32 (784-1024-1024-10)."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(784, 1024, activation="relu"), nn.Linear(1024, 1024, activation="relu"), nn.Linear(1024, 10)
    )
    net.set_rule("pepita")
    initialise(net, "he-uniform")
    x = torch.rand(64, 784) * (torch.rand(64, 784) < 0.2)  # like a digit: a fifth of the pixels, in [0, 1]
    target = torch.randint(10, (64,))
    net, x = net.to(dtype), x.to(dtype)
    delta = differences(net, x, target)
    with torch.no_grad():
        naive = of_two_passes(net, x, target, 10)
        exact = of_two_passes(net.double(), x.double(), target, 10)
    assert len(exact) == 2
    for layer in range(2):
        delta_error = (delta[layer] - exact[layer]).norm()
        naive_error = (naive[layer] - exact[layer]).norm()
        assert naive_error > 0
        assert delta_error <= naive_error / gain
