"""The optimizers whose steps are taken from a rule's updates: torch's numbers, torch's state, no gradient."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from calls import Calls
from compare import Expected, assert_as_accurate, assert_rounded_once
from networks import assert_same, batches, loop, network, steps, twins
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

import fastalign.nn as nn
from fastalign import TrainStep, rules
from fastalign.ops.schemas import kernels
from fastalign.step import train_step


def _biases_apart(parameters: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
    weights, biases = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() == 1]
    return [{"params": weights, "weight_decay": 0.1}, {"params": biases}]


FUSED: dict[str, Any] = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "sgd, decay": lambda p: SGD(p, lr=0.1, weight_decay=0.1),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "momentum, biases do not decay": lambda p: SGD(_biases_apart(p), lr=0.1, momentum=0.9),
    "sgd, torch's fused": lambda p: SGD(p, lr=0.1, momentum=0.9, fused=True),
    "rmsprop": lambda p: RMSprop(p, lr=0.01, alpha=0.9),
    "rmsprop, decay": lambda p: RMSprop(p, lr=0.01, weight_decay=0.1, foreach=True),
    "adam": lambda p: Adam(p, lr=0.01, betas=(0.8, 0.95)),
    "adam, decay": lambda p: Adam(p, lr=0.01, weight_decay=0.1, foreach=True),
    "adam, torch's fused": lambda p: Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
    "adam, decoupled": lambda p: Adam(p, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True),
    "adam, biases do not decay": lambda p: Adam(_biases_apart(p), lr=0.01),
    "adamw, groups": lambda p: AdamW([{"params": p[:3], "lr": 0.1}, {"params": p[3:], "betas": (0.5, 0.9)}], lr=0.01),
}
OWN: dict[str, Any] = {
    "momentum, ascent": lambda p: SGD(p, lr=0.1, momentum=0.9, maximize=True),
    "dampening": lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "rmsprop, centered": lambda p: RMSprop(p, lr=0.01, centered=True),
    "rmsprop, momentum": lambda p: RMSprop(p, lr=0.01, momentum=0.9),
    "adam, amsgrad": lambda p: Adam(p, lr=0.01, amsgrad=True),
    "adamw, ascent": lambda p: AdamW(p, lr=0.01, maximize=True),
    "adam, a tensor for a rate": lambda p: Adam(p, lr=torch.tensor(0.01)),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}
NETWORKS = [("bp", "dense"), ("dfa", "dense"), ("pepita", "dense"), ("pepita", "convolutional"), ("drtp", "normalised")]


@pytest.mark.parametrize("make", [*FUSED.values(), *OWN.values()], ids=[*FUSED, *OWN])
@pytest.mark.parametrize(("rule", "name"), NETWORKS)
def test_the_numbers_are_the_loops(rule: str, name: str, make: Any) -> None:
    plain, fused = twins(network(name, rule), make)
    data = batches(name)
    torch.testing.assert_close(steps(*fused, data), loop(*plain, data))
    assert_same(fused, plain)


@pytest.mark.parametrize("make", [*FUSED.values(), *OWN.values()], ids=[*FUSED, *OWN])
def test_whose_step_it_is(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("normalised")
    optimizer = make(list(net.parameters()))
    called = []
    monkeypatch.setattr(optimizer, "step", lambda: called.append(True))
    steps(net, optimizer, batches("normalised", 2))
    assert bool(called) == (make in OWN.values())


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rule", ["bp", "dfa", "drtp", "pepita"])
def test_as_accurate_as_the_loop(rule: str, dtype: torch.dtype, name: str) -> None:
    """One step, from what some steps have left, which is not small numbers over small ones."""
    if name == "sgd, torch's fused" and dtype.itemsize < 4:
        pytest.skip("torch's fused SGD leaves half-precision parameters on the CPU as they are")
    if name == "adam, torch's fused" and dtype == torch.float16:
        pytest.skip("it steps by R before that is rounded, and squares of gradients are too small for float16")
    start = network("dense", rule)
    optimizer = FUSED[name](list(start.parameters()))
    if dtype == torch.float16 and "eps" in optimizer.defaults:
        for group in optimizer.param_groups:
            group["eps"] = 1e-4  # the squares of most gradients are zero in float16, and 1e-8 is
    data = [(x.to(dtype).double(), y) for x, y in batches("dense", 4)]
    loop(start, optimizer, data[:3])

    def after(net_dtype: torch.dtype, train: Any) -> list[Tensor]:
        net = copy.deepcopy(start).to(dtype).to(net_dtype)
        its_optimizer = FUSED[name](list(net.parameters()))
        its_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for state in its_optimizer.state.values():
            state.update({key: t.to(dtype).to(t.dtype) for key, t in state.items() if key != "step"})
        train(net, its_optimizer, data[3:], first=3)
        return [p.detach() for p in net.parameters()]

    for found, exact, plain in zip(after(dtype, steps), after(torch.float64, loop), after(dtype, loop), strict=True):
        assert_as_accurate(found, Expected(exact, plain))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_bias_of_another_rate_is_rounded_once(dtype: torch.dtype) -> None:
    """Its gradient is a sum of many rounded numbers, which is not rounded before the step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 300), rule="bp").to(dtype)
    weight, bias = net.parameters()
    torch.nn.init.zeros_(bias)
    x, y = torch.randn(33, 4).to(dtype), torch.randint(300, (33,))
    _, delta = kernels.cross_entropy(net(x).detach(), y, False)
    groups: list[dict[str, Any]] = [{"params": [weight]}, {"params": [bias], "lr": 0.3}]
    TrainStep(net, loss="cross_entropy", optimizer=SGD(groups, lr=0.1), reduction="sum").step(x, y)
    assert_rounded_once(bias.detach(), -0.3 * delta.double().sum(0))


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_the_state_is_torchs(make: Any) -> None:
    """Under the same names, in the same dtypes, of tensors of their own."""
    for dtype in (torch.float32, torch.bfloat16):
        plain, fused = twins(network("normalised", dtype=dtype), make)
        data = batches("normalised", 3)
        loop(*plain, data)
        steps(*fused, data)
        for p, q in zip(plain[0].parameters(), fused[0].parameters(), strict=True):
            expected, found = plain[1].state.get(p, {}), fused[1].state.get(q, {})
            described = [{k: (t.dtype, t.shape, t.stride(), t.device) for k, t in s.items()} for s in (expected, found)]
            assert described[0] == described[1]
        saved = fused[1].state_dict()
        made_anew = make(list(fused[0].parameters()))
        made_anew.load_state_dict(saved)
        assert_same((fused[0], made_anew), fused, rtol=0, atol=0)


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_one_may_change_between_step_and_loop(make: Any) -> None:
    """In mid-training, the same step again too, and through a checkpoint."""
    (plain, plain_optimizer), (net, optimizer) = twins(network("dense"), make)
    step = TrainStep(net, loss="cross_entropy", optimizer=optimizer)
    for i, batch in enumerate([b for b in batches("dense", 7)[:6] for _ in range(2)]):
        loop(plain, plain_optimizer, [batch], first=i)
        if i in (3, 4, 8):
            loop(net, optimizer, [batch], first=i)
            continue
        if i == 6:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        torch.manual_seed(i)
        step.step(*batch)
    assert_same((net, optimizer), (plain, plain_optimizer))


@pytest.mark.parametrize("make", [FUSED["momentum"], FUSED["adam"], FUSED["rmsprop"]], ids=["sgd", "adam", "rmsprop"])
@pytest.mark.parametrize("rule", ["dfa", "bp"])
def test_parameters_that_pause(rule: str, make: Any) -> None:
    """Adam then has several counts of steps in one group."""
    (plain, plain_optimizer), (net, optimizer) = twins(network("dense", rule), make)
    step = TrainStep(net, loss="cross_entropy", optimizer=optimizer)
    for i, batch in enumerate([b for b in batches("dense", 7)[:6] for _ in range(2)]):
        for each in (plain, net):
            each.get_parameter("2.weight").requires_grad_(i not in (0, 1, 2, 5, 6, 7))
            each.get_parameter("0.bias").requires_grad_(i not in (0, 6))
        loop(plain, plain_optimizer, [batch], first=i)
        torch.manual_seed(i)
        step.step(*batch)
    assert_same((net, optimizer), (plain, plain_optimizer))


def test_parameters_that_change_groups() -> None:
    (plain, plain_optimizer), (net, optimizer) = twins(network("dense"), FUSED["adamw, groups"])
    step = TrainStep(net, loss="cross_entropy", optimizer=optimizer)
    for i, batch in enumerate([b for b in batches("dense", 5)[:4] for _ in range(2)]):
        if i == 5:
            for each in (plain_optimizer, optimizer):
                each.param_groups[1]["params"].append(each.param_groups[0]["params"].pop(0))
        loop(plain, plain_optimizer, [batch], first=i)
        torch.manual_seed(i)
        step.step(*batch)
    assert_same((net, optimizer), (plain, plain_optimizer))


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_a_replay_follows_the_settings(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A learning rate that falls with every step, and Adam's t, ask for no recording of their own."""
    recorded = []

    def counted(*arguments: Any, record: Any = train_step.record) -> Any:
        recorded.append(arguments)
        return record(*arguments)

    monkeypatch.setattr(train_step, "record", counted)
    (plain, plain_optimizer), (net, optimizer) = twins(network("dense"), make)
    step = TrainStep(net, loss="cross_entropy", optimizer=optimizer)
    for i, batch in enumerate(batches("dense", 9)[:8]):
        for each in (plain_optimizer, optimizer):
            for group in each.param_groups:
                group["lr"] *= 0.8
        loop(plain, plain_optimizer, [batch], first=i)
        torch.manual_seed(i)
        step.step(*batch)
    assert_same((net, optimizer), (plain, plain_optimizer))
    assert len(recorded) == 1


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
@pytest.mark.parametrize(("rule", "calls"), [("dfa", 1), ("drtp", 1), ("bp", 3), ("pepita", 3)])
def test_no_gradient_is_formed(rule: str, calls: int, make: Any) -> None:
    net = network("dense", rule)
    for layer in (net[0], net[4]):
        layer.register_parameter("bias", None)
    step = TrainStep(net, loss="cross_entropy", optimizer=make(list(net.parameters())))
    with Calls() as found:
        step.step(*batches("dense", 2)[0])
    assert not {"linear_update", "linear_updates", "optimizer_steps_"} & set(found.names)
    assert found.names.count("linear_steps_") == calls


def test_the_same_bits_at_every_run() -> None:
    for make in (FUSED["momentum"], FUSED["adam"]):
        runs = []
        for _ in range(2):
            net = network("convolutional", dtype=torch.float32)
            optimizer: Optimizer = make(list(net.parameters()))
            steps(net, optimizer, batches("convolutional"))
            runs.append((net, optimizer))
        assert_same(*runs, rtol=0, atol=0)


class _WithoutBias(rules.DFA):
    def updates(self, *arguments: Any) -> Iterator[rules.Update]:
        return (update._replace(with_bias=False) for update in super().updates(*arguments))


def test_a_rule_that_leaves_biases_alone() -> None:
    net = network("dense")
    net.set_rule(_WithoutBias())
    plain, fused = twins(net, FUSED["momentum"])
    before = net.get_parameter("0.bias").clone()
    loop(*plain, batches("dense"))
    steps(*fused, batches("dense"))
    assert_same(fused, plain)
    assert torch.equal(fused[0].get_parameter("0.bias"), before)


def test_parameters_of_something_else() -> None:
    """Parameters that the optimizer has beside the network's stay as they are, without state."""
    net, other = nn.Sequential(nn.Linear(8, 3), rule="bp"), torch.nn.Parameter(torch.ones(3))
    optimizer = Adam([*net.parameters(), other], lr=0.1)
    steps(net, optimizer, [(torch.rand(4, 8), torch.zeros(4, dtype=torch.long))] * 3)
    assert torch.equal(other.detach(), torch.ones(3))
    assert other not in optimizer.state
