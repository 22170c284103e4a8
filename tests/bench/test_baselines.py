"""What is measured side by side does the same work."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import TINY
from torch import Tensor

from fastalign.bench import loops
from fastalign.bench.cases import all_cases
from fastalign.bench.floor import passes
from fastalign.bench.plain import LEARNING_RATE, MOMENTUM, Convolutional, Dense
from fastalign.bench.plan import Network, Plan
from fastalign.bench.steps import FLOOR_WITH_PASSES, RULES, Steps, make, rows
from fastalign.ops.schemas import SCHEMAS
from fastalign.step.train_step import TrainStep

torch.manual_seed(0)
CASES = [case for dtype in TINY.dtypes for case, _ in all_cases(TINY, dtype)]


def test_every_op_is_measured() -> None:
    assert {case.op.partition(",")[0] for case in CASES} == set(SCHEMAS)


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda i: f"{CASES[i].op} {CASES[i].shape} {i}")
def test_plain_pytorch_gives_the_numbers_of_the_op(number: int) -> None:
    case = CASES[number]
    arguments = copy.deepcopy(case.arguments)
    theirs, ours = _tensors(case.plain(*arguments)), _tensors(case.run())
    if not ours:  # in place
        theirs, ours = _tensors(arguments[:2]), _tensors(case.arguments[:2])
    tolerance = 1e-5 if arguments[0].dtype == torch.float32 else 0.03
    for a, b in zip(theirs, ours, strict=True):
        assert a.shape == b.shape
        assert torch.dist(a.double(), b.double()) <= tolerance * a.double().norm()


def _tensors(value: Any) -> list[Tensor]:
    """The tensors of a result, those of an update without what is empty."""
    if value is None:
        return []
    if isinstance(value, Tensor):
        return [value] if value.numel() else []
    return [tensor for part in value for tensor in _tensors(part)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("network", TINY.networks, ids=lambda network: network.name)
def test_plain_steps_train_as_fastalign_does(network: Network, rule: str) -> None:
    torch.manual_seed(0)
    net: Any = make(network, rule)
    kind = Convolutional if network.is_convolutional else Dense
    batches = Steps(network, "cpu").batches[:3]
    rtol, atol = (1e-4, 1e-5) if network.dtype == torch.float32 else (0.02, 0.0)
    for form in kind(net, network.samples).forms(rule):
        trained: Any = make(network, rule)
        trained.load_state_dict(net.state_dict())
        plain = kind(net, network.samples)
        step = plain.forms(rule)[form]
        optimizer = torch.optim.SGD(trained.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
        reference = TrainStep(trained, loss="cross_entropy", optimizer=optimizer)
        for x, y in batches:
            torch.testing.assert_close(step(x, y).float(), reference.step(x, y).float(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("rule", loops.RULES)
@pytest.mark.parametrize("bias", [True, False])
def test_usual_loops_train_as_fastalign_does(rule: str, bias: bool) -> None:
    torch.manual_seed(0)
    network = Network("12-8-6-4", (12,), (8, 6), classes=4, samples=5, bias=bias)
    trained: Any = make(network, rule)
    start = copy.deepcopy(trained.state_dict())
    loop = loops.DenseLoop(trained)
    optimizer = torch.optim.SGD(trained.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    reference = TrainStep(trained, loss="cross_entropy", optimizer=optimizer)
    for x, y in Steps(network, "cpu").batches[:3]:
        torch.testing.assert_close(loop.step(rule)(x, y), reference.step(x, y), rtol=1e-4, atol=1e-5)
    learned = [parameter for layer in loop.layers for parameter in layer.parameters()]
    for (name, ours), theirs in zip(trained.named_parameters(), learned, strict=True):
        torch.testing.assert_close(theirs - start[name], ours - start[name], rtol=1e-3, atol=1e-6)


def test_layers_of_one_width_are_also_measured_at_once() -> None:
    assert list(Steps(TINY.networks[2], "cpu").plain("dfa")) == ["layer by layer", "all at once"]


@pytest.mark.parametrize("rule", ["dfa", "pepita"])
def test_what_is_beside_the_floor_is_what_the_rule_needs(rule: str) -> None:
    """The loss, h, and the terms of the first layer's update, in the numbers of the network's own step."""
    torch.manual_seed(0)
    net: Any = make(TINY.networks[0], rule)
    x, y = Steps(TINY.networks[0], "cpu").batches[0]
    found: dict[str, Any] = {part: call() for part, call in reversed(list(passes(net, x, y, rule))) if part != "biases"}
    step = net.new_step(x, None)
    with torch.no_grad():
        outputs = step.forward(x)
        loss, gradient = found["loss"]
        first = next(u for u in step.updates(tuple(step.release()), gradient) if u.layer is step.layers[0])
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(outputs, y))
    torch.testing.assert_close(found["activations"], net[:2](x))
    torch.testing.assert_close(found["postsynaptic"], first.post)
    if rule == "pepita":
        torch.testing.assert_close(found["modulation"], first.pre)


def test_the_floor_with_all_passes_is_measured_of_dense_networks() -> None:
    plan = replace(TINY, networks=(TINY.networks[0], TINY.networks[-1]))
    assert [FLOOR_WITH_PASSES in row["times"] for row in rows(plan)] == [True] * len(RULES) + [False] * len(RULES)


def test_a_quick_plan_measures_the_same_groups_with_less() -> None:
    full, quick = Plan(), Plan().quick()
    assert quick.groups == full.groups
    assert quick.processes == 1
    assert not quick.compiles
    assert {axis for axis, _ in quick.axes} == {axis for axis, _ in full.axes}
    assert all(values for _, values in quick.axes)
