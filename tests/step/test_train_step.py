"""A training step without autograd gives the numbers of the plain loop."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import (
    CLASSES,
    MOMENTUM,
    OPTIMIZERS,
    RULES,
    TRAINABLE,
    MakeOptimizer,
    assert_same,
    batches,
    loop,
    network,
    steps,
    twins,
)
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import fastalign.nn as nn
from fastalign import TrainStep, rules


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(("rule", "name"), TRAINABLE)
def test_it_is_the_loop(rule: str, name: str, make: MakeOptimizer) -> None:
    plain, fused = twins(network(name, rule), make)
    expected = loop(*plain, batches(name))
    found = steps(*fused, batches(name))
    torch.testing.assert_close(found, expected)
    assert_same(fused, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rule", "name"), TRAINABLE)
def test_in_lower_precision(rule: str, name: str, dtype: torch.dtype) -> None:
    """One update is at most twice as far from that in float64 as the loop's, for most of some random networks.

    For some it is not: where a rounding moves a preactivation over 0, or another maximum into a pooled window, either
    of the two may be far off.
    """
    found, plain = zip(*(errors_of_an_update(rule, name, dtype, seed) for seed in range(9)), strict=True)
    for fused_errors, loop_errors in zip(zip(*found, strict=True), zip(*plain, strict=True), strict=True):
        assert median(fused_errors) <= 2 * median(loop_errors) + torch.finfo(dtype).eps


def errors_of_an_update(rule: str, name: str, dtype: torch.dtype, seed: int) -> list[tuple[float, float]]:
    """The relative errors of weights and velocities, of the fused step when it is replayed and then of the loop."""
    fused = network(name, rule, dtype, seed)
    fused_optimizer = MOMENTUM(list(fused.parameters()))
    step = TrainStep(fused, loss="cross_entropy", optimizer=fused_optimizer)
    *earlier, last = [(x.to(dtype), y) for x, y in batches(name, 5, seed)[:4]]
    for x, y in earlier:
        step.step(x, y)
    trained = []
    for format in (dtype, torch.float64):
        net = copy.deepcopy(fused).to(format)
        optimizer = MOMENTUM(list(net.parameters()))
        optimizer.load_state_dict(copy.deepcopy(fused_optimizer.state_dict()))
        loop(net, optimizer, [last], first=seed)
        trained.append(weights_and_velocities(net, optimizer))
    torch.manual_seed(seed)
    step.step(*last)
    plain, exact = trained
    return [
        tuple(((one - e).norm() / e.norm()).item() for one, e in zip(its, exact, strict=True))
        for its in (weights_and_velocities(fused, fused_optimizer), plain)
    ]


def weights_and_velocities(net: nn.Sequential, optimizer: Optimizer) -> tuple[Tensor, Tensor]:
    velocities = [optimizer.state[p]["momentum_buffer"] for p in net.parameters() if p in optimizer.state]
    weights, velocity = (
        torch.cat([t.detach().double().flatten() for t in tensors]) for tensors in (net.parameters(), velocities)
    )
    return weights, velocity


@pytest.mark.parametrize("make", [MOMENTUM, OPTIMIZERS["adam"]], ids=["sgd", "adam"])
@pytest.mark.parametrize("name", ["dense", "normalised"])
def test_one_may_change_between_step_and_loop(name: str, make: MakeOptimizer) -> None:
    """In mid-training, also through a checkpoint: the optimizer has all of the state."""
    plain, mixed = twins(network(name), make)
    data = batches(name, 8)
    loop(*plain, data)
    loop(*mixed, data[:2])
    steps(*mixed, data[2:4], first=2)
    net = network(name)
    net.load_state_dict(mixed[0].state_dict())
    resumed = net, make(list(net.parameters()))
    resumed[1].load_state_dict(mixed[1].state_dict())
    steps(*resumed, data[4:6], first=4)
    loop(*resumed, data[6:], first=6)
    assert_same(resumed, plain)


@pytest.mark.parametrize("frozen", [["0.weight"], ["0.weight", "0.bias"], ["4.bias"], ["2.weight"]], ids=str)
@pytest.mark.parametrize("rule", ["bp", "dfa", "ifa", "pepita"])
def test_frozen_parameters_stay(rule: str, frozen: list[str]) -> None:
    net = network("dense", rule)
    for name in frozen:
        net.get_parameter(name).requires_grad_(False)
    plain, fused = twins(net, MOMENTUM)
    before = [fused[0].get_parameter(name).clone() for name in frozen]
    loop(*plain, batches("dense"))
    steps(*fused, batches("dense"))
    assert_same(fused, plain)
    torch.testing.assert_close([fused[0].get_parameter(name).detach() for name in frozen], before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "of_layers"),
    [("with_block", ["bp", rules.DRTP(), "dfa"]), ("dense", [rules.DRTP(), "dfa", "bp"])],
    ids=["with_block", "dense"],
)
def test_a_rule_for_each_layer(name: str, of_layers: list[Any]) -> None:
    net = network(name)
    net.set_rule(of_layers)
    plain, fused = twins(net, MOMENTUM)
    loop(*plain, batches(name))
    steps(*fused, batches(name))
    assert_same(fused, plain)


@pytest.mark.parametrize("make", [MOMENTUM, OPTIMIZERS["adam"]], ids=["sgd", "adam"])
def test_any_loss(make: MakeOptimizer) -> None:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(outputs, F.one_hot(labels, CLASSES).to(outputs.dtype), reduction="sum")

    (plain, plain_optimizer), (fused, optimizer) = twins(network("dense", "pepita"), make)
    step = TrainStep(fused, loss=loss, optimizer=optimizer)
    for x, y in batches("dense"):
        torch.manual_seed(0)
        expected = loss(plain(x), y)
        expected.backward()
        plain_optimizer.step()
        plain_optimizer.zero_grad()
        torch.manual_seed(0)
        found = step.step(x, y)
        assert not found.requires_grad
        torch.testing.assert_close(found, expected.detach())
    assert_same((fused, optimizer), (plain, plain_optimizer))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "drtp"])
def test_steps_alike_are_recorded_and_replayed(rule: str, make: MakeOptimizer, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("dense", rule)
    step = TrainStep(net, loss="cross_entropy", optimizer=make(list(net.parameters())))
    data = batches("dense")
    for x, y in data[:4]:
        step.step(x, y)
    monkeypatch.setattr(net, "new_step", None)
    before = [p.clone() for p in net.parameters()]
    step.step(*data[4])
    assert step.outputs is not None
    assert step.outputs.shape == (6, CLASSES)
    assert any(not torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    with pytest.raises(TypeError):
        step.step(*data[-1])  # the smaller batch is another step


def _with_another_rate(net: nn.Sequential, optimizer: Optimizer) -> None:
    optimizer.param_groups[0]["lr"] = 0.3


def _with_another_weight(net: nn.Sequential, optimizer: Optimizer) -> None:
    weight = net.get_parameter("0.weight")
    weight.data = weight.data.clone() * 2


def _with_a_hook(net: nn.Sequential, optimizer: Optimizer) -> None:
    def forget(*_: object) -> None:
        net.get_parameter("0.weight").grad = None

    optimizer.register_step_pre_hook(forget)


def _with_other_strides(net: nn.Sequential, optimizer: Optimizer) -> None:
    weight = net.get_parameter("0.weight")
    weight.data = weight.data.as_strided(weight.shape, (1, weight.shape[0]))


def _with_another_state(net: nn.Sequential, optimizer: Optimizer) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    net.load_state_dict(copy.deepcopy(net.state_dict()), assign=True)
    optimizer.param_groups[0]["params"] = list(net.parameters())


CHANGES: dict[str, Callable[[nn.Sequential, Optimizer], object]] = {
    "learning rate": _with_another_rate,
    "another weight": _with_another_weight,
    "the strides of a weight": _with_other_strides,
    "another activation": lambda net, _: net.__setitem__(3, nn.Tanh()),
    "a hook on the optimizer": _with_a_hook,
    "another state": _with_another_state,
    "evaluation mode": lambda net, _: net.eval(),
    "dropout": lambda net, _: setattr(net[1], "p", 0.7),
    "a frozen layer": lambda net, _: net[0].requires_grad_(False),
    "another rule": lambda net, _: net.set_rule(rules.BP()),
    "a setting of the rule": lambda net, _: vars(net.rule).update(sign=-1.0, sign_of_error=True, error_scale=3.0),
    "fixed matrices": lambda net, _: [b.mul_(2) for b in net.buffers()],
    "another fixed matrix": lambda net, _: net._buffers.update(
        {k: 2 * b for k, b in net._buffers.items() if b is not None}
    ),
}


@pytest.mark.parametrize("make", [MOMENTUM, OPTIMIZERS["adam"]], ids=["sgd", "adam"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("rule", ["dfa", "pepita"])
def test_a_replay_notices_what_changes(
    rule: str, change: Callable[[nn.Sequential, Optimizer], object], make: MakeOptimizer
) -> None:
    (plain, plain_optimizer), (fused, optimizer) = twins(network("dense", rule), make)
    step = TrainStep(fused, loss="cross_entropy", optimizer=optimizer)
    for i, (x, y) in enumerate([batch for batch in batches("dense")[:5] for _ in range(2)]):
        if i == 5:
            for net, its_optimizer in ((plain, plain_optimizer), (fused, optimizer)):
                torch.manual_seed(0)
                change(net, its_optimizer)
        loop(plain, plain_optimizer, [(x, y)], first=i)
        torch.manual_seed(i)
        step.step(x, y)
    assert_same((fused, optimizer), (plain, plain_optimizer))


def test_a_replay_makes_no_momentum() -> None:
    (plain, plain_optimizer), (fused, optimizer) = twins(network("dense"), MOMENTUM)
    step = TrainStep(fused, loss="cross_entropy", optimizer=optimizer)
    for i, (x, y) in enumerate(batches("dense")[:6]):
        if i < 3:
            plain_optimizer.state.clear()
            optimizer.state.clear()
        loop(plain, plain_optimizer, [(x, y)], first=i)
        torch.manual_seed(i)
        step.step(x, y)
    assert_same((fused, optimizer), (plain, plain_optimizer))


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "pepita"])
def test_convolutions_are_recorded_and_replayed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(18, CLASSES)]
    net = nn.Sequential(*layers, rule=RULES[rule], input_shape=(2, 7, 7)).double()
    (plain, plain_optimizer), (fused, optimizer) = twins(net, MOMENTUM)
    step = TrainStep(fused, loss="cross_entropy", optimizer=optimizer)
    for i, (x, y) in enumerate(batches("convolutional")[:5]):
        if i == 4:
            monkeypatch.setattr(fused, "new_step", None)
        loop(plain, plain_optimizer, [(x, y)])
        step.step(x, y)
    assert_same((fused, optimizer), (plain, plain_optimizer))


def test_no_gradient_is_left() -> None:
    for make in (MOMENTUM, OPTIMIZERS["adam"]):
        net = network("normalised")
        steps(net, make(list(net.parameters())), batches("normalised"))
        assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("make", [MOMENTUM, OPTIMIZERS["adam"]], ids=["sgd", "adam"])
@pytest.mark.filterwarnings("error")
def test_a_learning_rate_schedule(make: MakeOptimizer) -> None:
    plain, fused = twins(network("dense"), make)
    for (net, optimizer), train in ((plain, loop), (fused, steps)):
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
        for batch in batches("dense"):
            train(net, optimizer, [batch])
            schedule.step()
    assert_same(fused, plain)


def test_the_optimizers_own_step_where_it_does_more() -> None:
    class Halving(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.grad.mul_(0.5)
            return super().step(closure)

    def hooked(parameters: list[torch.nn.Parameter]) -> Optimizer:
        optimizer = torch.optim.SGD(parameters, lr=0.1)

        def halve(*_: object) -> None:
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.grad.mul_(0.5)

        optimizer.register_step_pre_hook(halve)
        return optimizer

    for make in (lambda parameters: Halving(parameters, lr=0.1), hooked):
        plain, fused = twins(network("dense"), make)
        loop(*plain, batches("dense"))
        steps(*fused, batches("dense"))
        assert_same(fused, plain)


@pytest.mark.parametrize("kind", ["pre", "post", "pre of all", "post of all"])
def test_who_watches_an_optimizers_steps_sees_them(kind: str) -> None:
    net = network("dense")
    optimizer = MOMENTUM(list(net.parameters()))
    register = {
        "pre": optimizer.register_step_pre_hook,
        "post": optimizer.register_step_post_hook,
        "pre of all": register_optimizer_step_pre_hook,
        "post of all": register_optimizer_step_post_hook,
    }[kind]
    seen = []
    handle = register(lambda *arguments: seen.append(arguments))
    try:
        steps(net, optimizer, batches("dense", 3))
    finally:
        handle.remove()
    assert len(seen) == 3


@pytest.mark.parametrize("rule", ["bp", "dfa", "pepita"])
def test_under_autocast(rule: str) -> None:
    plain, fused = twins(network("convolutional", rule, torch.float32), MOMENTUM)
    with torch.autocast("cpu", torch.bfloat16):
        expected = loop(*plain, batches("convolutional"))
        found = steps(*fused, batches("convolutional"))
    assert [loss.dtype for loss in found] == [torch.float32] * len(found)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert_same(fused, plain, rtol=1e-5, atol=1e-6)


def test_a_pending_backward_pass_notices_a_step() -> None:
    net = network("dense", "bp")
    ((x, y),) = batches("dense", 1)
    loss = F.cross_entropy(net(x), y)
    steps(net, torch.optim.SGD(net.parameters(), lr=0.1), [(x, y)])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("make", [MOMENTUM, OPTIMIZERS["adam"]], ids=["sgd", "adam"])
@pytest.mark.parametrize(("rule", "name"), [("bp", "normalised"), ("dfa", "with_block"), ("pepita", "convolutional")])
def test_steps_leave_nothing_behind(rule: str, name: str, make: MakeOptimizer) -> None:
    def living() -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of modules that look at being looked at
            return sum(isinstance(thing, Tensor) for thing in gc.get_objects())

    net = network(name, rule)
    step = TrainStep(net, loss="cross_entropy", optimizer=make(list(net.parameters())))
    ((x, y),) = batches(name, 1)
    step.step(x, y)
    gc.collect()
    gc.disable()  # so that cycles would count
    try:
        before = living()
        for _ in range(3):
            step.step(x, y)
        assert living() == before
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (
            lambda net: torch.nn.Sequential(*net),
            r"torch\.nn\.\S+Sequential: fastalign\.convert\(network, rule=\.\.\.\)",
        ),
        (torch.nn.DataParallel, r"torch\.nn\.\S+DataParallel, which wraps one: it is network\.module$"),
        (torch.compile, r"torch\.\S+OptimizedModule, which wraps one: it is network\._orig_mod$"),
        (lambda net: None, r"builtins\.NoneType"),
    ],
    ids=["torch's", "data parallel", "compiled", "none"],
)
def test_another_network_is_refused(wrap: Callable[[nn.Sequential], Any], told: str) -> None:
    net = network("dense")
    with pytest.raises(TypeError, match=rf"network: expected a fastalign\.nn\.Sequential with a rule, got {told}"):
        TrainStep(wrap(net), loss="cross_entropy", optimizer=torch.optim.SGD(net.parameters(), lr=0.1))


def test_what_it_cannot_take_is_refused() -> None:
    net = nn.Sequential(nn.Linear(8, CLASSES))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"network: expected one with a rule \(set_rule\), got None"):
        TrainStep(net, loss="cross_entropy", optimizer=optimizer)
    net.set_rule("bp")
    with pytest.raises(ValueError, match=r"loss is 'hinge', expected one of cross_entropy, .*mse"):
        TrainStep(net, loss="hinge", optimizer=optimizer)
    with pytest.raises(ValueError, match=r"reduction: expected one of mean, sum, got 'none'"):
        TrainStep(net, loss="mse", optimizer=optimizer, reduction="none")
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(ValueError, match=r"input: expected shape \(N, 8\)"):
        TrainStep(net, loss="cross_entropy", optimizer=optimizer).step(
            torch.rand(4, 7), torch.zeros(4, dtype=torch.long)
        )
    torch.testing.assert_close(list(net.parameters()), before, rtol=0, atol=0)


def test_what_is_no_tensor_is_refused_by_name_before_and_after_a_recording() -> None:
    net = nn.Sequential(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, CLASSES), rule="dfa")
    step = TrainStep(net, loss="cross_entropy", optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    x, y = torch.randn(5, 8), torch.randint(0, CLASSES, (5,))
    wrong: list[tuple[Any, Any, str]] = [
        (None, y, "x: .* NoneType"),
        (x, None, "y: .* NoneType"),
        (x, [0], "y: .* list"),
    ]
    for _ in range(2):
        before = copy.deepcopy(net.state_dict())
        for inputs, labels, says in wrong:
            with pytest.raises(TypeError, match=says):
                step.step(inputs, labels)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        for _ in range(4):
            step.step(x, y)
