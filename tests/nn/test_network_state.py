"""State dicts, copies, pickles, casts; rules set anew; modules that come and go."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign.nn as nn
from fastalign import TrainStep, initialise, rules

RULES = ["bp", "fa", "dfa", "ifa", "drtp", "pepita", "shared dfa"]
every_rule = pytest.mark.parametrize("rule", RULES)
X = torch.rand(5, 8, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 3, 1, 1, 2])


def made(rule: str) -> str | rules.Rule:
    return rules.DFA(shared_feedback=True) if rule == "shared dfa" else rule


def network(rule: str | None, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(8, 7, activation="tanh"),
        nn.Linear(7, 6),
        nn.LayerNorm(6, elementwise_affine=False),
        nn.ReLU(),
        nn.Linear(6, 4),
        rule=None if rule is None else made(rule),
    )


def learned(net: torch.nn.Module) -> list[Tensor | None]:
    net.zero_grad()
    F.cross_entropy(net(X, TARGET), TARGET).backward()
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def saved(net: nn.Sequential) -> nn.Sequential:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@every_rule
def test_fixed_matrices_are_in_the_state_dict(rule: str) -> None:
    net, other = network(rule), network(rule, seed=1)
    fixed = [name for name in net.state_dict() if name.startswith(("feedback", "projection"))]
    count = {"bp": 0, "fa": 2, "dfa": 2, "ifa": 1, "drtp": 2, "pepita": 1, "shared dfa": 1}
    assert len(fixed) == count[rule]
    assert len(list(net.parameters())) == 6
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    before = learned(other)
    other.load_state_dict(torch.load(file))
    expected = learned(net)
    assert not torch.allclose(before[0], expected[0])  # type: ignore[arg-type]
    torch.testing.assert_close(learned(other), expected, rtol=0, atol=0)


@every_rule
def test_a_torch_checkpoint_loads(rule: str) -> None:
    """Its keys are the same; fixed matrices stay as they are, and so they do in a network within a network."""
    plain = torch.nn.Sequential(
        torch.nn.Linear(8, 7), torch.nn.Linear(7, 6), torch.nn.Identity(), torch.nn.ReLU(), torch.nn.Linear(6, 4)
    )
    net = network(rule)
    fixed = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net.load_state_dict(plain.state_dict(), strict=True)
    torch.testing.assert_close([p.data for p in net.parameters()], [p.data for p in plain.parameters()])
    torch.testing.assert_close(dict(net.named_buffers()), fixed, rtol=0, atol=0)
    outer = torch.nn.ModuleDict({"net": net})
    outer.load_state_dict({f"net.{name}": value for name, value in plain.state_dict().items()}, strict=True)
    torch.testing.assert_close(dict(net.named_buffers()), fixed, rtol=0, atol=0)
    torch.nn.Sequential(*plain).load_state_dict(network(None).state_dict(), strict=True)


@every_rule
@pytest.mark.parametrize("nested", [False, True])
def test_state_dicts_are_contiguous_and_those_of_before_load(rule: str, nested: bool) -> None:
    """Safetensors, and so the Trainer of transformers, saves no others. F itself lies by its classes, as ever."""
    nets = [network(rule), network(rule, seed=1), network(rule, seed=2), network(rule, seed=3)]
    net, *others = nets
    outer = [torch.nn.ModuleDict({"net": other}) if nested else other for other in nets]
    state = outer[0].state_dict()
    assert all(value.is_contiguous() for value in state.values())
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    before = {name: value.mT.contiguous().mT if value.dim() == 2 else value for name, value in state.items()}
    strides = {name: buffer.stride() for name, buffer in net.named_buffers()}
    expected = learned(net)
    loads = ((state, False), (before, False), (state, True))
    for other, holder, (given, assign) in zip(others, outer[1:], loads, strict=True):
        holder.load_state_dict(given, assign=assign)
        assert {name: buffer.stride() for name, buffer in other.named_buffers()} == strides
        torch.testing.assert_close(dict(other.named_buffers()), dict(net.named_buffers()), rtol=0, atol=0)
        torch.testing.assert_close(learned(other), expected, rtol=0, atol=0)


def test_a_checkpoint_with_something_missing_or_left_over_is_refused() -> None:
    net = network("dfa")
    state = net.state_dict()
    del state["1.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*1\.weight"):
        net.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*feedback_0"):
        network("pepita").load_state_dict(net.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for feedback_0"):
        network("fa").load_state_dict(net.state_dict())


@every_rule
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), saved],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies(rule: str, copied: Callable[[nn.Sequential], nn.Sequential]) -> None:
    """A copy learns the same, and on its own; also one of a network that has run."""
    net = network(rule)
    expected = learned(net)
    other = copied(net)
    torch.testing.assert_close(learned(other), expected, rtol=0, atol=0)
    assert repr(other) == repr(net)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.add_(1)
    torch.testing.assert_close(learned(net), expected, rtol=0, atol=0)
    other.set_rule("bp")
    assert repr(net.rule) == repr(rules.named(made(rule)))


@every_rule
def test_casts_take_fixed_matrices_along(rule: str) -> None:
    net = network(rule).double()
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float64}
    expected = learned(network(rule))
    F.cross_entropy(net(X.double(), TARGET), TARGET).backward()
    found = [None if p.grad is None else p.grad.float() for p in net.parameters()]
    torch.testing.assert_close(found, expected)
    assert {tensor.device.type for tensor in net.to("meta").state_dict().values()} == {"meta"}


def test_fixed_matrices_have_the_shapes_of_the_rule() -> None:
    net = network(None)
    shapes = {}
    for rule in RULES:
        net.set_rule(made(rule))
        shapes[rule] = [None if matrix is None else tuple(matrix.shape) for matrix in net.feedback]
        assert (net.projection is None) == (rule != "pepita")
    assert shapes == {
        "bp": [None, None],
        "fa": [(6, 7), (4, 6)],
        "dfa": [(7, 4), (6, 4)],
        "ifa": [(7, 4), None],
        "drtp": [(7, 4), (6, 4)],
        "pepita": [None, None],
        "shared dfa": [(7, 4), (6, 4)],
    }
    net.set_rule("pepita")
    assert net.projection is not None
    assert net.projection.shape == (8, 4)


def test_fixed_matrices_of_convolutions() -> None:
    """DFA's matrix receives at the map after pooling, FA's is a kernel, PEPITA's F has a row for each pixel."""
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 5, 2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
        rule="dfa",
        input_shape=(2, 8, 6),
    )
    assert [m.shape for m in net.feedback if m is not None] == [(3 * 4 * 3, 4), (5, 4)]
    net.set_rule("fa")
    assert [m.shape for m in net.feedback if m is not None] == [(5, 3, 2, 2), (4, 5)]
    net.set_rule("pepita")
    assert net.projection is not None
    assert net.projection.shape == (2 * 8 * 6, 4)


def test_shared_feedback_is_one_buffer() -> None:
    net = network("shared dfa")
    first, second = net.feedback
    assert first is not None
    assert second is not None
    assert first.data_ptr() == second.data_ptr()
    assert [name for name, _ in net.named_buffers()] == ["feedback_shared"]
    each = nn.Sequential(
        nn.Linear(8, 6, activation="tanh", rule=rules.DFA(shared_feedback=True)),
        nn.Linear(6, 9, activation="tanh", rule=rules.DFA(shared_feedback=True)),
        nn.Linear(9, 4),
        rule="bp",
    )
    assert [m.shape for m in each.feedback if m is not None] == [(6, 4), (9, 4)]
    assert len(list(each.buffers())) == 1
    assert all(gradient is not None for gradient in learned(each))


@every_rule
def test_set_rule_keeps_the_parameters_and_draws_anew(rule: str) -> None:
    net = network("pepita")
    parameters = list(net.parameters())
    values = copy.deepcopy(parameters)
    net.set_rule(made(rule))
    assert all(now is before for now, before in zip(net.parameters(), parameters, strict=True))
    torch.testing.assert_close(parameters, values, rtol=0, atol=0)
    first = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net.set_rule(made(rule))
    for name, buffer in net.named_buffers():
        assert rule == "fa" or not torch.equal(buffer, first[name])
    assert ("projection" in net.state_dict()) == (rule == "pepita")


def test_the_seed_draws_the_matrices() -> None:
    torch.testing.assert_close(dict(network("dfa").named_buffers()), dict(network("dfa").named_buffers()))


def test_fa_copies_the_weights_before_they_are_zeroed() -> None:
    net = network(None)
    weights = [net.get_parameter("1.weight").detach().clone(), net.get_parameter("4.weight").detach().clone()]
    net.set_rule("fa")
    initialise(net, "zero")
    torch.testing.assert_close([m for m in net.feedback if m is not None], weights)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.append(nn.Linear(4, 4)),
        lambda net: net.__delitem__(0),
        lambda net: net.insert(2, nn.Linear(6, 6)),
        lambda net: net.extend([nn.ReLU(), nn.Linear(4, 4)]),
    ],
    ids=["append", "del", "insert", "extend"],
)
def test_layers_that_come_and_go_ask_for_set_rule(change: Callable[[nn.Sequential], object]) -> None:
    net = network("dfa")
    change(net)
    x = torch.rand(5, 8 if isinstance(net[0], torch.nn.Linear) and net[0].in_features == 8 else 7)
    with pytest.raises(RuntimeError, match=r"its rules were set for 3 layers, now it has [24]; call set_rule again"):
        net(x)
    net.set_rule("dfa")
    net(x).sum().backward()


def test_a_layer_of_another_size_asks_for_set_rule() -> None:
    for rule in ("dfa", "drtp", "fa", "pepita"):
        net = network(rule)
        net[0], net[1] = nn.Linear(8, 9, activation="tanh"), nn.Linear(9, 6)
        if rule == "pepita":
            net[0] = nn.Linear(10, 9, activation="tanh")
        x = torch.rand(5, net.get_parameter("0.weight").shape[1])
        with pytest.raises((RuntimeError, ValueError), match=r"fixed matrix|projection F"):
            net(x, TARGET)
        net.set_rule(rule)
        net(x, TARGET).sum().backward()


class Adapted(torch.nn.Module):
    """A frozen layer with a low-rank update beside it."""

    def __init__(self, base: torch.nn.Module) -> None:
        super().__init__()
        assert isinstance(base, torch.nn.Linear)
        self.base = base.requires_grad_(False)
        self.down, self.up = torch.nn.Linear(base.in_features, 2), torch.nn.Linear(2, base.out_features)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.base(x) + self.up(self.down(x))
        return found


REPLACEMENTS: dict[str, tuple[int, int, Callable[[torch.nn.Module], torch.nn.Module]]] = {
    "an adapter": (1, 1, Adapted),
    "an adapter first": (0, 0, Adapted),
    "a new head": (4, 2, lambda head: nn.Linear(6, 5)),
    "a head of other inputs": (4, 2, lambda head: nn.Linear(7, 4)),
    "a head in a block": (4, 2, lambda head: nn.Block(nn.Linear(6, 4))),
    "a convolution": (1, 1, lambda layer: nn.Conv2d(7, 6, 1)),
}


@every_rule
@pytest.mark.parametrize("name", REPLACEMENTS)
def test_a_layer_that_was_replaced_by_another_asks_for_set_rule(rule: str, name: str) -> None:
    """By name, in the loop and in a step that replays; backpropagation has nothing that was made for the old one."""
    place, number, replace = REPLACEMENTS[name]
    net = network(rule)
    step = TrainStep(net, loss="cross_entropy", optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    for _ in range(4):
        step.step(X, TARGET)
    net[place] = replace(net[place])
    kind = type(net[place]).__name__
    if rule == "bp":
        if name in ("an adapter", "an adapter first", "a new head", "a head in a block"):
            learned(net)
        return
    for train in (lambda: net(X, TARGET), lambda: step.step(X, TARGET)):
        with pytest.raises(RuntimeError, match=rf"layer {number}, {kind}.*a weight of \(.*; call set_rule again"):
            train()


def test_a_block_that_was_replaced_asks_for_set_rule_where_its_size_or_kind_is_another() -> None:
    net = nn.Sequential(nn.Linear(8, 6), nn.Block(nn.Linear(6, 6)), nn.Block(nn.Linear(6, 4)), rule="dfa")
    net[1] = nn.Block(torch.nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 6)))
    learned(net)
    net[2] = nn.Block(nn.Linear(6, 5))
    with pytest.raises(ValueError, match=r"fixed matrix of \(6, 5\) at .* one of \(6, 4\); expected .* set_rule"):
        net(X)
    net[2] = nn.Linear(6, 4)
    with pytest.raises(RuntimeError, match=r"layer 2, Linear\(.*drawn for a block; call set_rule again"):
        net(X)


def test_what_follows_the_head_of_pepita_was_replaced() -> None:
    net = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4), nn.Identity(), rule="pepita")
    net[2] = nn.Unflatten(1, (2, 2))
    net(X)
    net[2] = nn.AdaptiveAvgPool1d(2)
    with pytest.raises(ValueError, match=r"fixed matrix of \(8, 2\) at .* one of \(8, 4\); expected .* set_rule"):
        net(X)


@every_rule
@pytest.mark.parametrize("copied", [lambda layer: layer, copy.deepcopy, lambda layer: nn.Linear(7, 6)])
def test_a_layer_that_was_replaced_by_one_like_it_needs_nothing(
    rule: str, copied: Callable[[torch.nn.Module], torch.nn.Module]
) -> None:
    net = copy.deepcopy(network(rule))
    net[1] = copied(net[1])
    assert all(gradient is not None for gradient in learned(net))


def test_a_slice_is_a_plain_chain() -> None:
    """It has no rule and learns as torch.nn.Sequential does, until it is given one."""
    net = network("dfa")
    part = net[:2]
    assert isinstance(part, nn.Sequential)
    assert part.rule is None
    plain = torch.nn.Sequential(*part)
    expected = torch.autograd.grad(plain(X).square().sum(), list(plain.parameters()))
    torch.testing.assert_close(torch.autograd.grad(part(X).square().sum(), list(part.parameters())), expected)
    part.set_rule("dfa")
    assert part.feedback[0] is not None
    assert part.feedback[0].shape == (7, 6)


def test_activations_that_come_and_go_need_nothing() -> None:
    net = network("dfa")
    net[3] = nn.Sigmoid()
    found = learned(net)
    again = nn.Sequential(*net, rule="dfa")
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(learned(again), found)


def test_repr_names_the_rule() -> None:
    text = repr(network("pepita"))
    assert "rule=PEPITA(presynaptic='modulated'" in text
    assert "Linear(in_features=8, out_features=7, bias=True, activation=tanh)" in text
