"""Activities computed again in place of being stored: the same bits, in a memory that does not grow with depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from test_train_step import RULES, Batch, assert_same, batches, network, twins
from torch import Tensor
from torch.optim import SGD, Adagrad, AdamW

import fastalign.nn as nn
from fastalign import TrainStep, _native, rules
from fastalign.bench.measure import peak_memory

LOCAL = [name for name, rule in RULES.items() if not rule.passes_through_layers]
OPTIMIZERS: dict[str, Any] = {
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: AdamW(p, lr=0.01),
    "its own step": lambda p: Adagrad(p, lr=0.1),
}


def train(net: nn.Sequential, optimizer: Any, data: list[Batch], memory: str) -> list[Tensor]:
    step = TrainStep(net, loss="cross_entropy", optimizer=optimizer, memory=memory)
    losses, dtype = [], next(net.parameters()).dtype
    for i, (x, y) in enumerate(data):
        torch.manual_seed(i)
        losses.append(step.step(x.to(dtype), y))
    return losses


def assert_the_same_bits(net: nn.Sequential, make: Any, data: list[Batch]) -> None:
    stored, recomputed = twins(net, make)
    expected = train(*stored, data, "store")
    torch.testing.assert_close(train(*recomputed, data, "recompute"), expected, rtol=0, atol=0)
    assert_same(recomputed, stored, rtol=0, atol=0)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["dense", "convolutional"])
@pytest.mark.parametrize("rule", LOCAL)
def test_the_same_bits(rule: str, name: str, dtype: torch.dtype, make: Any) -> None:
    """With dropout, whose masks are those of the first pass."""
    if rule == "ifa" and name != "dense":
        pytest.skip("IFA has no convolutions")
    assert_the_same_bits(network(name, rule, dtype), make, batches(name))


@pytest.mark.parametrize("rule", LOCAL)
def test_the_same_bits_in_larger_networks(rule: str) -> None:
    """Where the kernels split their work, and W_1 F rides on the forward product."""
    torch.manual_seed(0)
    layers = [nn.Linear(100, 200, bias=False, activation="relu"), nn.Linear(200, 150), nn.Tanh(), nn.Linear(150, 10)]
    data = [(torch.rand(64, 100), torch.randint(10, (64,))) for _ in range(3)]
    assert_the_same_bits(nn.Sequential(*layers, rule=RULES[rule]), OPTIMIZERS["momentum"], data)


@pytest.mark.parametrize("rule", LOCAL)
def test_the_same_bits_with_several_masks(rule: str) -> None:
    """Of the input and of each layer, drawn in order."""
    torch.manual_seed(0)
    hidden = [nn.Linear(8, 9), nn.Tanh(), nn.Dropout(0.3), nn.Linear(9, 9), nn.ReLU(), nn.Dropout(0.3)]
    net = nn.Sequential(nn.Dropout(0.2), *hidden, nn.Linear(9, 3), rule=RULES[rule])
    data = [(torch.rand(6, 8), torch.randint(3, (6,))) for _ in range(3)]
    assert_the_same_bits(net, OPTIMIZERS["momentum"], data)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("rule", ["dfa", "drtp"])
def test_the_same_bits_where_no_layer_has_all_of_its_delta_at_once(rule: str, make: Any) -> None:
    """Of so few samples that no product is the library's."""
    for activation in ("relu", "gelu"):
        assert_the_same_bits(wide_network(rule, activation), make, batches_of(64))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("rule", ["dfa", "drtp"])
def test_the_same_numbers_of_many_samples(rule: str, make: Any) -> None:
    """Whose products the library rounds by its blocks."""
    stored, recomputed = twins(wide_network(rule).double(), make)
    data = batches_of(300)
    expected = train(*stored, data, "store")
    torch.testing.assert_close(train(*recomputed, data, "recompute"), expected)
    assert_same(recomputed, stored)


def wide_network(rule: str, activation: str = "relu") -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(20, 300, activation=activation), nn.Linear(300, 301, bias=False), nn.Tanh(), nn.Linear(301, 5)]
    return nn.Sequential(*layers, rule=RULES[rule])


def batches_of(samples: int) -> list[Batch]:
    return [(torch.rand(samples, 20), torch.randint(5, (samples,))) for _ in range(3)]


def _weights_and_biases(parameters: Sequence[Tensor]) -> SGD:
    weights: dict[str, Any] = {"params": [p for p in parameters if p.dim() > 1]}
    biases: dict[str, Any] = {"params": [p for p in parameters if p.dim() == 1], "lr": 0.3}
    return SGD([weights, biases], lr=0.1, momentum=0.9)


@pytest.mark.parametrize("rule", ["dfa", "drtp"])
def test_biases_of_another_rate(rule: str) -> None:
    assert_the_same_bits(wide_network(rule), _weights_and_biases, batches_of(64))


@pytest.mark.parametrize("frozen", ["0.weight", "0.bias", "1.weight"])
def test_frozen_parameters(frozen: str) -> None:
    net = wide_network("dfa")
    net.get_parameter(frozen).requires_grad_(False)
    before = net.get_parameter(frozen).clone()
    assert_the_same_bits(net, OPTIMIZERS["momentum"], batches_of(64))
    assert torch.equal(net.get_parameter(frozen), before)


def test_several_rules() -> None:
    net = network("dense")
    net.set_rule([rules.DFA(), rules.DRTP(), "bp"])
    assert_the_same_bits(net, OPTIMIZERS["adamw"], batches("dense"))


def peak(rule: rules.Rule, hidden_layers: int, memory: str, activation: str = "tanh") -> float:
    """Of all that a step takes of torch's allocator at a time, in activities of one layer."""
    width, samples = 256, 256
    torch.manual_seed(0)
    layers = [nn.Linear(width, width, activation=activation) for _ in range(hidden_layers)]
    net = nn.Sequential(*layers, nn.Linear(width, 10), rule=rule)
    step = TrainStep(net, loss="cross_entropy", optimizer=SGD(net.parameters(), lr=0.1, momentum=0.9), memory=memory)
    x, y = torch.rand(samples, width), torch.randint(10, (samples,))
    step.step(x, y)
    return round(peak_memory(lambda: step.step(x, y), "cpu") / (samples * width * 4), 2)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Each thread has scratch memory of its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(_native.module is None, reason=str(_native.why_not))
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
@pytest.mark.parametrize("rule", [rules.DFA(), rules.DRTP()], ids=str)
def test_the_memory_of_two_layers(rule: rules.Rule, activation: str, one_thread: None) -> None:
    """h_{l−1} and h_l, or a_l where f′ follows from that alone; parts of δ_l, and what has the size of the output."""
    found = {depth: peak(rule, depth, "recompute", activation) for depth in (4, 16, 64)}
    assert max(found.values()) == min(found.values())
    assert 2 < found[64] <= 1.2 * 2, found
    assert peak(rule, 16, "store", activation) > 16


@pytest.mark.parametrize(
    "rule",
    [rules.IFA(), rules.PEPITA(), rules.PEPITA(output_error="modulated"), rules.PEPITA(presynaptic="standard")],
    ids=str,
)
def test_the_memory_of_two_layers_and_of_what_passes_between_them(rule: rules.Rule, one_thread: None) -> None:
    """h and δ, or Δh, of two layers."""
    found = {depth: peak(rule, depth, "recompute") for depth in (4, 16, 64)}
    assert max(found.values()) == min(found.values())
    assert 4 < found[64] <= 4.2, found
    assert peak(rule, 16, "store") > 16


@pytest.mark.parametrize("rule", ["bp", "fa"])
def test_rules_that_go_back_through_layers_are_refused(rule: str) -> None:
    net = network("dense", rule)
    with pytest.raises(ValueError, match=r"memory: .* takes δ from the output back through every layer"):
        train(net, SGD(net.parameters(), lr=0.1), batches("dense", 1), "recompute")


def _with_a_hook(net: nn.Sequential) -> None:
    net[2].register_forward_hook(lambda *_: None)


def _with_a_hook_between(net: nn.Sequential) -> None:
    net[1].register_forward_hook(lambda *_: None)


class _Doubling(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("normalised", lambda net: None, "BatchNorm2d in training mode changes its running statistics in every pass"),
        ("with_block", lambda net: None, "Block is a block, which may draw or remember"),
        ("convolutional", lambda net: net.__setitem__(1, nn.Dropout2d()), "Dropout2d draws anew in a second pass"),
        ("dense", _with_a_hook, "Linear.* has a hook, which would see two passes"),
        ("dense", _with_a_hook_between, "Dropout has a hook, which would see two passes"),
        ("convolutional", _with_a_hook_between, "MaxPool2d has a hook, which would see two passes"),
        ("dense", lambda net: net.__setitem__(1, _Doubling()), "_Doubling runs code of its own"),
    ],
)
def test_modules_that_a_second_pass_would_change_are_refused(name: str, change: Any, reason: str) -> None:
    net = network(name)
    change(net)
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(ValueError, match=f"memory: .*{reason}.*; expected 'store'"):
        train(net, SGD(net.parameters(), lr=0.1), batches(name, 1), "recompute")
    torch.testing.assert_close(list(net.parameters()), before, rtol=0, atol=0)


def test_normalisation_by_statistics_that_stay() -> None:
    net = network("normalised").eval()
    assert_the_same_bits(net, OPTIMIZERS["momentum"], batches("normalised"))


def test_another_memory_is_refused() -> None:
    net = network("dense")
    with pytest.raises(ValueError, match=r"memory: expected one of store, recompute, got 'none'"):
        train(net, SGD(net.parameters(), lr=0.1), [], "none")


@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_no_target_is_as_large_as_classes_by_classes(memory: Any) -> None:
    """Nor a recording, which the second step of a kind makes, as `peak_memory` makes it count."""
    classes = 2000
    net = nn.Sequential(nn.Linear(8, 16, activation="tanh"), nn.Linear(16, classes), rule="drtp")
    step = TrainStep(net, loss="cross_entropy", optimizer=SGD(net.parameters(), lr=0.1), memory=memory)
    x, y = torch.rand(4, 8), torch.randint(classes, (4,))
    assert peak_memory(lambda: step.step(x, y), "cpu") < 4 * classes * classes / 10
