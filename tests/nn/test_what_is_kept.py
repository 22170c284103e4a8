"""What lives on after a step: nothing of a backward pass, and nothing that an update nobody wants would cost."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parameter import is_lazy

import fastalign.nn as nn

N = 16
X = torch.rand(N, 8, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(N) % 4
RULES = ["bp", "fa", "dfa", "ifa", "drtp", "pepita"]


def plain(rule: str) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 7, activation="tanh"), nn.Linear(7, 6), nn.GELU(), nn.Dropout(0.2), nn.Linear(6, 4)]
    return nn.Sequential(*layers, rule=rule)


def with_modules(rule: str) -> nn.Sequential:
    torch.manual_seed(0)
    block = nn.Block(torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.ReLU(), torch.nn.Linear(9, 7)))
    return nn.Sequential(nn.Linear(8, 7), nn.BatchNorm1d(7), nn.Tanh(), block, nn.ReLU(), nn.Linear(7, 4), rule=rule)


def living() -> int:
    """How many tensors there are of activity's size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of things that warn when looked at
        return sum(
            isinstance(thing, Tensor) and not is_lazy(thing) and thing.numel() >= 6 * N for thing in gc.get_objects()
        )


def assert_forgotten(net: nn.Sequential) -> None:
    gc.collect()
    gc.disable()  # so that cycles would count
    try:
        before = living()
        loss = F.cross_entropy(net(X, TARGET), TARGET)
        loss.backward()
        net.zero_grad()
        assert living() == before
        F.cross_entropy(net(X, TARGET), TARGET)  # no backward pass
        assert living() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("rule", RULES)
def test_a_backward_pass_lets_go_of_everything(rule: str) -> None:
    assert_forgotten(plain(rule))


@pytest.mark.parametrize("frozen", [0, 2, 4], ids=["all learn", "frozen layer", "frozen block"])
@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "drtp"])
def test_so_it_does_through_other_modules(rule: str, frozen: int) -> None:
    net = with_modules(rule)
    for module in list(net)[:frozen]:
        module.requires_grad_(False)
    assert_forgotten(net)


def test_a_region_of_autocast_keeps_no_weights_of_steps_past() -> None:
    net = with_modules("dfa")
    seen: list[weakref.ref[Tensor]] = []
    net[3].module[0].register_forward_pre_hook(lambda module, _: seen.append(weakref.ref(module.weight)))  # type: ignore[union-attr, index]
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(3):
            F.cross_entropy(net(X), TARGET).backward()
        assert [weight() for weight in seen] == [None] * 3


def test_the_gradient_of_the_input_alone_costs_no_update(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastalign.engine.passes import LayerPass

    net = plain("bp")
    torch.manual_seed(1)
    expected = net.input_gradient(X, lambda output: F.cross_entropy(output, TARGET))
    monkeypatch.delattr(LayerPass, "update")
    torch.manual_seed(1)
    found = net.input_gradient(X, lambda output: F.cross_entropy(output, TARGET))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_backward_pass_of_drtp_in_eval_mode_without_target() -> None:
    net = plain("drtp").eval()
    loss = F.cross_entropy(net(X), TARGET)
    with pytest.raises(RuntimeError, match=r"target: DRTP needs it .* in eval mode too; got None"):
        loss.backward()
    F.cross_entropy(net(X, TARGET), TARGET).backward()
    assert net[0].weight.grad is not None


def test_soft_targets_beside_integer_inputs() -> None:
    net = nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(12, 4), rule="drtp", input_shape=(4,))
    words, soft = torch.arange(8).reshape(2, 4), torch.full((2, 4), 0.25)
    F.cross_entropy(net(words, soft), soft).backward()
    matrix = net.feedback[0]
    assert matrix is not None
    expected = torch.zeros(9, 3)
    expected[:8] = (soft @ matrix.T / 2).reshape(8, 3)
    torch.testing.assert_close(net[0].weight.grad, expected)
