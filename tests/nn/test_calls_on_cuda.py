"""How often a step calls on a GPU, seen without one: its tensors are fakes, which have a device and no values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastalign import nn, rules
from fastalign.engine.passes import LayerPass, gradients_at_once


class Calls(TorchDispatchMode):
    """Counts the calls of this package's ops."""

    def __init__(self) -> None:
        super().__init__()
        self.number: Counter[str] = Counter()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op.namespace == "fastalign":
            self.number[op.__name__.removesuffix(".default")] += 1
        return op(*args, **(kwargs or {}))


def network(depth: int, rule: rules.Rule, bias: bool = True) -> nn.Sequential:
    layers = [nn.Linear(6, 6, activation="tanh", bias=bias) for _ in range(depth)]
    return nn.Sequential(nn.Linear(4, 6, activation="tanh", bias=bias), *layers, nn.Linear(6, 3, bias=bias), rule=rule)


def calls_of_a_backward_pass(net: nn.Sequential) -> Counter[str]:
    with FakeTensorMode(), torch.no_grad():
        for module in net.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(torch.empty(parameter.shape, device="cuda"))
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, device="cuda")
        # Autograd itself cannot be had for a device that torch was built without.
        step = net.new_step(torch.empty(5, 4, device="cuda"), torch.empty(5, 3, device="cuda"))
        output = step.forward(torch.empty(5, 4, device="cuda"))
        kept = tuple(step.release())
        with Calls() as calls:
            gradients = step.gradients(kept, torch.empty_like(output))
        assert set(gradients) == set(net.parameters())
        assert all(gradient.shape == parameter.shape for parameter, gradient in gradients.items())
    return calls.number


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rule", [rules.DFA, rules.DRTP])
def test_a_backward_pass_of_direct_feedback_is_two_calls_at_any_depth(
    rule: Callable[[], rules.Rule], bias: bool
) -> None:
    for depth in (1, 3, 8):
        assert calls_of_a_backward_pass(network(depth, rule(), bias)) == {"feedback_terms": 1, "linear_updates": 1}


def test_backpropagation_keeps_no_update_waiting() -> None:
    assert calls_of_a_backward_pass(network(3, rules.BP()))["linear_update"] == 5


def test_gradients_at_once_are_a_call_for_each_device() -> None:
    def update(device: str) -> rules.Update:
        layer = LayerPass.__new__(LayerPass)  # of a step that is not taken
        layer.own_parameters = torch.empty(3, 4, device=device), torch.empty(3, device=device)
        return rules.Update(layer, torch.empty(5, 3, device=device), torch.empty(5, 4, device=device))

    with FakeTensorMode(), Calls() as calls:
        found = gradients_at_once([update(device) for device in ("cuda:0", "cuda:1", "cuda:0")])
    assert calls.number == {"linear_updates": 2}
    assert len(found) == 6
    for parameter, gradient in found:
        assert (gradient.device, gradient.shape) == (parameter.device, parameter.shape)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rule", [rules.DFA, rules.DRTP])
def test_gradients_at_once_are_the_same(
    rule: Callable[[], rules.Rule], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net, x, y = network(3, rule(), bias), torch.randn(5, 4), torch.eye(3)[torch.arange(5) % 3]
    net[1].weight = net[2].weight  # one that stands in two places has the sum
    net[3].weight.requires_grad_(False)

    def gradients() -> list[torch.Tensor | None]:
        net.zero_grad()
        ((net(x, y) - y) ** 2).mean().backward()
        return [parameter.grad for parameter in net.parameters()]

    alone = gradients()
    joins, joined = LayerPass.joins_others, []

    def joins_as_on_cuda(layer: LayerPass, _: torch.Tensor) -> bool:
        joined.append(joins(layer, SimpleNamespace(is_cuda=True)))  # type: ignore[arg-type]
        return joined[-1]

    monkeypatch.setattr(LayerPass, "joins_others", joins_as_on_cuda)
    for one, other in zip(alone, gradients(), strict=True):
        assert (one is None) == (other is None)
        assert one is None or other is None or torch.equal(one, other)
    assert joined == [True, True, True, True, bias]  # the output layer comes first
