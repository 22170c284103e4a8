"""What people hand to `TrainStep` and to a network: the number where it makes sense, else what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign.nn as nn
from fastalign import TrainStep

CLASSES = 5


def network(rule: str = "dfa") -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, CLASSES), rule=rule)


def step(net: nn.Sequential, **settings: Any) -> TrainStep:
    return TrainStep(net, optimizer=torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), **settings)


torch.manual_seed(0)
X, LABELS = torch.randn(16, 12), torch.randint(CLASSES, (16,))
PROBABILITIES = torch.rand(16, CLASSES).softmax(1)
SOFT = lambda outputs, y: F.cross_entropy(outputs, y.float())  # noqa: E731
SQUARES = lambda outputs, y: F.mse_loss(outputs, y.float(), reduction="sum") / (2 * len(y))  # noqa: E731
BINARY = lambda outputs, y: F.binary_cross_entropy_with_logits(outputs, y.float(), reduction="sum") / len(y)  # noqa: E731
TARGETS: dict[str, tuple[str, Tensor, Callable[[Tensor, Tensor], Tensor]]] = {
    "real numbers": ("mse", torch.randn(16, CLASSES), SQUARES),
    "real numbers in float64": ("mse", torch.randn(16, CLASSES, dtype=torch.float64), SQUARES),
    "several classes": ("binary_cross_entropy", (PROBABILITIES > 0.2).float(), BINARY),
    "several classes, bool": ("binary_cross_entropy", PROBABILITIES > 0.2, BINARY),
    "several classes, int64": ("binary_cross_entropy", (PROBABILITIES > 0.2).long(), BINARY),
    "soft labels of each class": ("binary_cross_entropy", PROBABILITIES, BINARY),
    "probabilities": ("cross_entropy", PROBABILITIES, SOFT),
    "one-hot int64": ("cross_entropy", F.one_hot(LABELS, CLASSES), SOFT),
    **{
        f"{dtype}": ("cross_entropy", LABELS.to(dtype), lambda o, y: F.cross_entropy(o, y.long()))
        for dtype in (torch.uint8, torch.int32, torch.int16)
    },
    "uint8, mse": ("mse", LABELS.byte(), lambda o, y: SQUARES(o, F.one_hot(y.long(), CLASSES))),
}


@pytest.mark.parametrize("rule", ["bp", "dfa", "drtp", "pepita"])
@pytest.mark.parametrize("target", TARGETS)
def test_targets_of_losses_by_name(target: str, rule: str) -> None:
    name, y, loss = TARGETS[target]
    trained = []
    for fused in (False, True):
        net = network(rule)
        its_step = step(net, loss=name)
        for _ in range(5):
            if fused:
                its_step.step(X, y)
            else:
                loss(net(X, y), y).backward()
                its_step.optimizer.step()
                its_step.optimizer.zero_grad()
        trained.append(list(net.state_dict().values()))
    torch.testing.assert_close(*trained, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_target_with_a_graph_of_a_loss_by_name(recorded: bool) -> None:
    net, y = network(), torch.randn(16, CLASSES)
    its_step = step(net, loss="mse")
    for _ in range(5 if recorded else 0):
        its_step.step(X, y)
    with torch.no_grad():
        expected = (y - net(X)) / 16
    y.requires_grad_()
    its_step.step(X, y)
    assert y.grad is not None
    torch.testing.assert_close(y.grad, expected)


@pytest.mark.parametrize(
    ("loss", "y", "told"),
    [
        ("mse", torch.randn(16), r"labels: expected class indices of shape \(16,\) or targets shaped like the outputs"),
        ("mse", torch.randn(16, 4), r"the outputs, \(16, 5\), got torch\.float32 of shape \(16, 4\)"),
        ("binary_cross_entropy", LABELS[:4], r"the outputs, \(16, 5\), got torch\.int64 of shape \(4,\)"),
        ("cross_entropy", torch.rand(16), r"the outputs, \(16, 5\), got torch\.float32 of shape \(16,\)"),
        ("cross_entropy", torch.rand(16, 4), r"the outputs, \(16, 5\), got torch\.float32 of shape \(16, 4\)"),
    ],
)
def test_other_targets_are_refused(loss: str, y: Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        step(network(), loss=loss).step(X, y)


def test_an_optimizer_that_calls_a_closure_is_refused_at_once() -> None:
    class Twice(torch.optim.SGD):
        def step(self, closure: Callable[[], float]) -> float:  # type: ignore[override]
            return closure()

    net = network()
    for optimizer in (torch.optim.LBFGS(net.parameters()), Twice(net.parameters(), lr=0.1)):
        with pytest.raises(ValueError, match=r"optimizer: (LBFGS|Twice) calculates the loss anew.*the plain loop"):
            TrainStep(net, loss="cross_entropy", optimizer=optimizer)


def test_what_is_no_tensor_is_named() -> None:
    net = network()
    told = r"expected a torch\.Tensor \(torch\.as_tensor makes one\), got "
    inputs: list[tuple[Any, str]] = [
        (X.numpy(), r"numpy\.ndarray"),
        (X.tolist(), r"list"),
        (None, "NoneType"),
    ]
    for x, kind in inputs:
        with pytest.raises(TypeError, match=rf"^input: {told}.*{kind}"):
            net(x)
    its_step = step(net, loss="cross_entropy")
    for _ in range(4):  # from the third on a replay
        its_step.step(X, LABELS)
        for x, kind in inputs:
            with pytest.raises(TypeError, match=rf"^x: {told}.*{kind}"):
                its_step.step(x, LABELS)
            with pytest.raises(TypeError, match=rf"^y: {told}.*{kind}"):
                its_step.step(X, x)


@pytest.mark.parametrize(
    "module", [torch.nn.LazyLinear(20), torch.nn.Sequential(torch.nn.LazyLinear(20))], ids=["layer", "nested"]
)
def test_lazy_modules_want_their_first_input_before_a_rule(module: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match=r"rule: LazyLinear '0.*' has no weights before its first input; expected one"):
        nn.Sequential(module, nn.Tanh(), nn.LazyBatchNorm1d(), nn.LazyLinear(CLASSES), rule="dfa", input_shape=(12,))
    net = nn.Sequential(module, nn.Tanh(), nn.LazyBatchNorm1d(), nn.LazyLinear(CLASSES))
    net(X)
    net.set_rule("dfa")
    F.cross_entropy(net(X), LABELS).backward()
