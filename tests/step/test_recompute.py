"""Activities computed again in place of being stored: the same numbers, in a memory that does not grow with depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from networks import RULES, Batch, assert_same, batches, network, twins
from torch import Tensor
from torch.optim import SGD, Adagrad, AdamW

import fastalign.nn as nn
from fastalign import TrainStep, rules
from fastalign.bench.measure import peak_memory
from fastalign.engine import recompute
from fastalign.ops import native

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
    assert_the_same_numbers(net, make, data, rtol=0, atol=0)


def assert_the_same_numbers(net: nn.Sequential, make: Any, data: list[Batch], **tolerance: Any) -> None:
    stored, recomputed = twins(net, make)
    expected = train(*stored, data, "store")
    torch.testing.assert_close(train(*recomputed, data, "recompute"), expected, **tolerance)
    assert_same(recomputed, stored, **tolerance)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["dense", "convolutional"])
@pytest.mark.parametrize("rule", LOCAL)
def test_the_same_bits(rule: str, name: str, dtype: torch.dtype, make: Any) -> None:
    """With dropout, whose masks are those of the first pass."""
    if rule == "ifa" and name != "dense":
        pytest.skip("IFA has no convolutions")
    assert_the_same_bits(network(name, rule, dtype), make, batches(name))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("rule", LOCAL)
def test_the_same_bits_in_larger_networks(rule: str, make: Any) -> None:
    """Where the kernels split their work, and W_1 F rides on the forward product."""
    if RULES[rule].takes_slices and make is OPTIMIZERS["momentum"]:
        pytest.skip("within rounding, as tested below")
    torch.manual_seed(0)
    layers = [nn.Linear(100, 200, bias=False, activation="relu"), nn.Linear(200, 150), nn.Tanh(), nn.Linear(150, 10)]
    data = [(torch.rand(64, 100), torch.randint(10, (64,))) for _ in range(3)]
    assert_the_same_bits(nn.Sequential(*layers, rule=RULES[rule]), make, data)


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


class _HalfDFA(rules.DFA):
    """A rule of one's own, which computes with δ."""

    def updates(self, step: rules.Step, layers: Sequence[rules.Layer], above: rules.Update) -> Iterator[rules.Update]:
        for layer, delta in step.feedback_terms(step.error, layers):
            yield rules.Update(layer, 0.5 * delta, layer.input)


def test_a_rule_that_computes_with_its_delta_gets_a_tensor() -> None:
    net = wide_network("dfa")
    net.set_rule(_HalfDFA())
    assert_the_same_bits(net, OPTIMIZERS["momentum"], batches_of(64))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("rule", ["dfa", "drtp"])
def test_the_same_numbers_of_many_samples(rule: str, make: Any) -> None:
    """Whose products the library rounds by its blocks."""
    assert_the_same_numbers(wide_network(rule).double(), make, batches_of(300))


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


@pytest.fixture
def sliced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The slices of each step that has any."""
    found, in_turn = [], recompute._in_turn

    def counted(runs: Sequence[Iterator[rules.Update]]) -> Iterator[rules.Update]:
        found.append(len(runs))
        return in_turn(runs)

    monkeypatch.setattr(recompute, "_in_turn", counted)
    return found


def pepita(**settings: Any) -> rules.PEPITA:
    return rules.PEPITA(projection_scale=1.0, **settings)


def pepita_network(rule: rules.Rule | None = None, *links: torch.nn.Module, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [
        nn.Linear(20, 30, bias, activation="tanh"),
        *links,
        nn.Linear(30, 25, False),
        nn.Linear(25, 30),
        nn.GELU(),
    ]
    net = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(30, 5), rule=rule or pepita(), input_shape=(4, 5))
    return net.double()


def matrices_of(*samples: int) -> list[Batch]:
    torch.manual_seed(1)
    return [(torch.rand(n, 4, 5), torch.randint(5, (n,))) for n in samples]


MOMENTA: dict[str, Any] = {
    "momentum": OPTIMIZERS["momentum"],
    "with weight decay": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "of several rates": lambda p: SGD([{"params": p[:2]}, {"params": p[2:], "lr": 0.01}], lr=0.1, momentum=0.9),
    "of weights": lambda p: SGD([q for q in p if q.dim() > 1], lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("make", MOMENTA.values(), ids=MOMENTA)
@pytest.mark.parametrize(
    ("samples", "slices"), [(64, 2), (65, 2), (100, 3), (256, 8), (257, 8), (300, 8)], ids=lambda count: str(count)
)
def test_the_same_numbers_of_slices(samples: int, slices: int, make: Any, sliced: list[int]) -> None:
    """Of as many samples, give or take one; a smaller batch comes between, and one too small for two slices."""
    assert_the_same_numbers(pepita_network(), make, matrices_of(samples, 96, samples, 63, samples))
    assert sliced == [slices, 3, slices, slices]


@pytest.mark.parametrize(
    "rule",
    [
        pepita(presynaptic="standard"),
        pepita(output_error="modulated"),
        pepita(sign_of_error=True, sign=-1.0),
        pepita(random_modulation=0.5),
        pepita(error_scale=3.0),
    ],
    ids=lambda rule: str(rule),
)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "W_1 F beside"])
def test_the_same_numbers_of_slices_by_every_variant(rule: rules.Rule, bias: bool, sliced: list[int]) -> None:
    assert_the_same_numbers(pepita_network(rule, bias=bias), OPTIMIZERS["momentum"], matrices_of(100, 100, 70))
    assert sliced == [3, 3, 2]


def test_the_same_numbers_of_slices_with_positions(sliced: list[int]) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 6, activation="relu"), nn.Linear(6, 7), nn.Tanh(), nn.Flatten(), nn.Linear(28, 5)]
    net = nn.Sequential(*layers, rule=pepita(), input_shape=(4, 5)).double()
    assert_the_same_numbers(net, OPTIMIZERS["momentum"], matrices_of(100, 70))
    assert sliced == [3, 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, lr=0.1),
        lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        _weights_and_biases,
        OPTIMIZERS["adamw"],
        OPTIMIZERS["its own step"],
    ],
    ids=["sgd", "nesterov", "biases of another rate", "adamw", "its own step"],
)
def test_steps_that_do_not_add_up_keep_their_bits(make: Any, sliced: list[int]) -> None:
    assert_the_same_bits(pepita_network(), make, matrices_of(100, 70))
    assert not sliced


@pytest.mark.parametrize(
    "links",
    [
        [nn.Dropout(0.3)],
        [torch.nn.Softmax(dim=0)],
        [torch.nn.Flatten(0), torch.nn.Unflatten(0, (-1, 30))],
    ],
    ids=["dropout", "softmax over samples", "flattened samples"],
)
def test_samples_that_cannot_be_told_apart_keep_their_bits(links: list[torch.nn.Module], sliced: list[int]) -> None:
    assert_the_same_bits(pepita_network(None, *links), OPTIMIZERS["momentum"], matrices_of(100, 70))
    assert not sliced


def test_networks_that_cannot_be_sliced_keep_their_bits(sliced: list[int]) -> None:
    frozen = pepita_network()
    frozen[2].weight.requires_grad_(False)
    halves, hebbian = pepita_network().bfloat16(), pepita_network(pepita(update="hebbian"))
    for net in (frozen, halves, hebbian):
        assert_the_same_bits(net, OPTIMIZERS["momentum"], matrices_of(100, 70))
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 2, activation="tanh"), nn.Flatten(), nn.Linear(36, 5)]
    images = [(x[:, None], y) for x, y in matrices_of(100, 70)]
    net = nn.Sequential(*layers, rule=pepita(), input_shape=(1, 4, 5))
    assert_the_same_bits(net, OPTIMIZERS["momentum"], images)
    assert not sliced


@pytest.mark.parametrize("name", ["4", "5"], ids=["layer", "activation"])
def test_a_hook_on_the_output_sees_one_pass(name: str, sliced: list[int]) -> None:
    hidden = nn.Linear(20, 30, activation="tanh"), nn.Linear(30, 30), nn.GELU()
    net = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(30, 5), nn.Sigmoid(), rule=pepita(), input_shape=(4, 5))
    seen: list[torch.Size] = []
    net.get_submodule(name).register_forward_hook(lambda _, x, h: seen.append(h.shape))
    train(net, OPTIMIZERS["momentum"](net.parameters()), matrices_of(100, 70), "recompute")
    assert seen == [(100, 5), (70, 5)]
    assert not sliced


@pytest.mark.parametrize("samples", [10, 70], ids=["in one piece", "in slices"])
@pytest.mark.parametrize("hidden_layers", [0, 1])
def test_the_batch_is_left_as_it_was(hidden_layers: int, samples: int) -> None:
    hidden = [nn.Linear(20, 20) for _ in range(hidden_layers)]
    net = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(20, 5), rule=pepita(), input_shape=(4, 5))
    ((x, y),) = matrices_of(samples)
    before = x.clone()
    train(net, SGD(net.parameters(), lr=0.1, momentum=0.9), [(x, y)], "recompute")
    assert torch.equal(x, before)


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


@pytest.mark.skipif(native.module is None, reason=str(native.why_not))
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
@pytest.mark.parametrize(
    "rule",
    [
        rules.DFA(),
        rules.DRTP(),
        rules.PEPITA(),
        rules.PEPITA(output_error="modulated"),
        rules.PEPITA(presynaptic="standard"),
    ],
    ids=str,
)
def test_the_memory_of_two_layers(rule: rules.Rule, activation: str, one_thread: None) -> None:
    """And what has the size of the output.

    Of DFA and DRTP h_{l−1} and h_l, or a_l where f′ follows from that alone, and parts of δ_l; of PEPITA h and Δh of a
    layer's slices or the layer's before, of one slice of both.
    """
    found = {depth: peak(rule, depth, "recompute", activation) for depth in (4, 16, 64)}
    assert max(found.values()) == min(found.values())
    assert 2 < found[64] <= 1.2 * 2, found
    assert peak(rule, 16, "store", activation) > 16


@pytest.mark.parametrize("rule", [rules.IFA(), rules.PEPITA()], ids=["IFA", "PEPITA"])
def test_the_memory_of_two_layers_and_of_what_passes_between_them(
    rule: rules.Rule, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """h and δ of two layers, or Δh where the samples are not sliced."""
    monkeypatch.setattr(recompute, "_SLICES", 1)
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
        ("dense", _with_a_hook_between, "Dropout.* has a hook, which would see two passes"),
        ("convolutional", _with_a_hook_between, "MaxPool2d.* has a hook, which would see two passes"),
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
