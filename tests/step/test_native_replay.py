"""Recorded steps as the extension runs them: the same bits as call by call, and no run where something has moved."""

from __future__ import annotations

import copy
import ctypes
import gc
from typing import Any

import pytest
import torch
from networks import MOMENTUM, RULES, Batch, batches, network
from torch import Tensor
from torch.optim import SGD, AdamW, RMSprop
from torch.overrides import TorchFunctionMode
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode

import fastalign.nn as nn
from fastalign import TrainStep
from fastalign.engine import watch
from fastalign.ops import native
from fastalign.step import replay
from fastalign.step.native_replay import NativeProgram

pytestmark = pytest.mark.skipif(native.module is None, reason="there is no extension")

CLASSES = 3
NATIVE = [rule for rule in RULES if rule in ("bp", "fa", "dfa", "dfa, shared", "drtp", "pepita")]


def dense(rule: str, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 70, activation="tanh"), nn.Linear(70, 6), nn.ReLU(), nn.Linear(6, CLASSES)]
    return nn.Sequential(*layers, rule=RULES[rule]).to(dtype)


def data(dtype: torch.dtype = torch.float32) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    sizes = (6, 6, 6, 6, 6, 4, 6, 6, 4, 4, 4, 6)
    return [
        (torch.rand(n, 8, generator=generator).to(dtype), torch.randint(CLASSES, (n,), generator=generator))
        for n in sizes
    ]


def train(net: nn.Sequential, make: Any, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], TrainStep]:
    optimizer = make(net.parameters())
    step = TrainStep(net, loss="cross_entropy", optimizer=optimizer)
    found = []
    for x, y in data(dtype):
        optimizer.param_groups[0]["lr"] *= 0.9
        found += [step.step(x, y), step.outputs]
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    return [t.clone() for t in (*found, *net.state_dict().values(), *state)], step


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize(
    "make",
    [lambda p: SGD(p, lr=0.1, momentum=0.9), lambda p: AdamW(p, lr=0.01), lambda p: RMSprop(p, lr=0.01)],
    ids=["momentum", "adamw", "rmsprop"],
)
@pytest.mark.parametrize("rule", NATIVE)
def test_the_same_bits_as_call_by_call(
    rule: str, make: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a rate that changes, and batches of two sizes that take turns."""
    found, step = train(dense(rule, dtype), make, dtype)
    if dtype == torch.float32:
        assert {type(replay.program) for replay in step._replays.values() if replay} == {NativeProgram}
    monkeypatch.setattr(replay, "native_program", lambda *_: None)
    expected, _ = train(dense(rule, dtype), make, dtype)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda d: str(d)[6:])
def test_rows_beside_the_batch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEPITA's W_1 F from the forward product of a layer without a bias."""

    def net() -> nn.Sequential:
        torch.manual_seed(0)
        layers = [nn.Linear(8, 70, bias=False), nn.ReLU(), nn.Linear(70, CLASSES, bias=False)]
        return nn.Sequential(*layers, rule="pepita").to(dtype)

    def make(parameters: Any) -> SGD:
        return SGD(parameters, lr=0.1, momentum=0.9)

    found, step = train(net(), make, dtype)
    assert {type(replay.program) for replay in step._replays.values() if replay} == {NativeProgram}
    monkeypatch.setattr(replay, "native_program", lambda *_: None)
    expected, _ = train(net(), make, dtype)
    assert all(map(torch.equal, found, expected))


def replayed(rule: str = "dfa") -> tuple[TrainStep, Batch]:
    """A step whose last call was a native replay."""
    net = dense(rule)
    step = TrainStep(net, loss="cross_entropy", optimizer=MOMENTUM(list(net.parameters())))
    for batch in data()[:5]:
        step.step(*batch)
    assert step._last_native is not None
    return step, batch


def test_steps_in_a_row_do_not_look_for_their_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    step, batch = replayed()
    monkeypatch.setattr(step, "_step_of_any_kind", None)
    step.step(*batch)


CHANGES: dict[str, Any] = {
    "a weight elsewhere": lambda net, opt: setattr(net[0].weight, "data", net[0].weight.data.clone()),
    "momentum elsewhere": lambda net, opt: opt.state[net[0].weight].update(momentum_buffer=torch.ones(70, 8)),
    "momentum moved": lambda net, opt: setattr(opt.state[net[0].weight]["momentum_buffer"], "data", torch.ones(70, 8)),
    "another parameter": lambda net, opt: setattr(net[0], "bias", torch.nn.Parameter(torch.zeros(70))),
    "a frozen weight": lambda net, opt: net[0].weight.requires_grad_(False),
    "a fixed matrix": lambda net, opt: setattr(net, "feedback_0", torch.ones(70, CLASSES)),
    "a hook": lambda net, opt: net[0].register_forward_hook(lambda *_: None),
    "a rule": lambda net, opt: net.set_rule("bp"),
    "the optimizer's state": lambda net, opt: opt.load_state_dict(copy.deepcopy(opt.state_dict())),
    "no more state": lambda net, opt: opt.state.clear(),
    "a rate": lambda net, opt: opt.param_groups[0].update(lr=0.5),
    "no momentum": lambda net, opt: opt.param_groups[0].update(momentum=0.0),
    "fewer parameters": lambda net, opt: opt.param_groups[0]["params"].pop(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_noticed(change: str) -> None:
    """The step after a change is that of a TrainStep that has not seen another one."""
    step, batch = replayed()
    with torch.no_grad():
        CHANGES[change](step.network, step.optimizer)
    net, optimizer = copy.deepcopy((step.network, step.optimizer))
    expected = TrainStep(net, loss="cross_entropy", optimizer=optimizer).step(*batch)
    assert torch.equal(step.step(*batch), expected)
    assert all(map(torch.equal, step.network.state_dict().values(), net.state_dict().values()))


def native_program_of(step: TrainStep) -> NativeProgram:
    assert step._last_native is not None
    program = step._last_native.program
    assert isinstance(program, NativeProgram)
    return program


def test_other_inputs_are_refused() -> None:
    step, (x, y) = replayed()
    program = native_program_of(step)
    assert program(x, y)
    for other in (x[:4], x.double(), x.T.contiguous().T):
        assert program(other, y) == []
    assert program(x) == []


class Other(Tensor):
    """May have functions of its own."""


MORE_THAN_MEMORY: dict[str, Any] = {
    "a negative bit": lambda net, x: torch._neg_view(-x),
    "zeros without memory": lambda net, x: torch._efficientzerotensor(x.shape),
    "a sparse tensor": lambda net, x: x.to_sparse(),
    "a wrapper of two": lambda net, x: TwoTensor(x, x.clone()),
    "a subclass": lambda net, x: x.as_subclass(Other),
}


@pytest.mark.parametrize("given", MORE_THAN_MEMORY)
def test_what_is_more_than_its_memory_is_neither_recorded_nor_replayed(given: str) -> None:
    step, (x, y) = replayed("bp")
    step._replays.clear()  # but for the last step's
    for _ in range(3):
        net, optimizer = copy.deepcopy((step.network, step.optimizer))
        other = TrainStep(net, loss="cross_entropy", optimizer=optimizer)
        expected = other.step(MORE_THAN_MEMORY[given](net, x), y)
        found = step.step(MORE_THAN_MEMORY[given](step.network, x), y)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert all(map(torch.equal, step.network.state_dict().values(), net.state_dict().values()))
    assert not step._replays


class Calls(TorchDispatchMode):
    """Notes the ops that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(op.name())
        return op(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    """Notes the functions that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [Calls, Functions])
def test_a_mode_sees_every_call(kind: type[Calls | Functions]) -> None:
    step, batch = replayed()
    with kind() as mode:
        step.step(*batch)
    assert any("linear_steps_" in name for name in mode.seen)
    assert not any("program" in name for name in mode.seen)


def test_a_default_device_does_not_keep_from_replays() -> None:
    step, batch = replayed()
    with torch.device("cpu"):
        step.step(*batch)
    assert step._last_native is not None


@pytest.mark.parametrize("what", ["x", "y", "weight", "momentum"])
def test_freed_memory_is_an_error(what: str) -> None:
    step, (x, y) = replayed()
    weight = step.network.get_parameter("0.weight")
    tensors = {"x": x, "y": y, "weight": weight, "momentum": step.optimizer.state[weight]["momentum_buffer"]}
    tensors[what].untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="storage was freed"):
        step.step(x, y)


def test_an_input_in_memory_that_lasts_is_not_replayed() -> None:
    step, (_, y) = replayed()
    weight = step.network.get_parameter("0.weight").detach()
    assert native_program_of(step)(weight[-6:], y) == []
    assert native_program_of(step)(weight[-6:].clone(), y)


def test_a_storage_cut_short_is_not_replayed() -> None:
    step, (x, y) = replayed()
    x.untyped_storage().resize_(x.untyped_storage().nbytes() - 4)
    assert native_program_of(step)(x, y) == []


@pytest.mark.parametrize("text", ["aten::permute T5 I0 = T1 ;\nreturn 1", "return 1", "return -1"])
def test_a_program_that_names_no_tensor_is_refused(text: str) -> None:
    number = torch.ops.fastalign.new_program(torch.tensor(list(text.encode()), dtype=torch.uint8), [torch.ones(1)], [])
    with pytest.raises(RuntimeError, match=r"expected a slot with a tensor, got (5|1|-1)$"):
        torch.ops.fastalign.run_program(number, [torch.ones(1)])


@pytest.mark.parametrize("rule", ["dfa", "drtp"])
def test_a_label_that_is_no_class_leaves_everything_as_it_was(rule: str) -> None:
    step, (x, _) = replayed(rule)
    before = copy.deepcopy(step.network.state_dict())
    with pytest.raises(RuntimeError, match="expected class indices from 0 to 2, got 3"):
        step.step(x, torch.full((6,), CLASSES))
    assert torch.is_grad_enabled()
    assert all(map(torch.equal, step.network.state_dict().values(), before.values()))


class Mallinfo(ctypes.Structure):
    """What `mallinfo2` of glibc returns."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "top",
        )
    ]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="there is no mallinfo2")
@pytest.mark.parametrize("what", ["recording", "setting a rule"])
def test_what_is_done_again_and_again_leaves_no_memory_in_use(what: str) -> None:
    """Bytes that are allocated and not freed, which Python need not know of."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo
    net = dense("dfa")
    step = TrainStep(net, loss="cross_entropy", optimizer=SGD(net.parameters(), lr=0.1))
    batches = [(torch.rand(n, 8), torch.zeros(n, dtype=torch.int64)) for n in range(2, 12)]

    def in_use(times: int) -> int:
        for _ in range(times):
            if what == "setting a rule":
                net.set_rule("dfa")
            for x, y in batches if what == "recording" else ():
                step.step(x, y)
                step.step(x, y)
        gc.collect()
        found = mallinfo2()
        return int(found.uordblks + found.hblkhd)

    in_use(20)  # what is kept once
    before = in_use(0)
    times = 40
    assert in_use(times) - before < 64 * times * len(batches)


def test_results_ask_for_no_gradient() -> None:
    step, (x, y) = replayed("pepita")
    loss = step.step(x.requires_grad_(), y)
    assert step._last_native is not None
    assert not loss.requires_grad
    assert step.outputs is not None
    assert not step.outputs.requires_grad


def test_other_calls_are_left_to_torch() -> None:
    weight = torch.ones(3)
    for call in (lambda x: [x.mul(2)], lambda x: [x * weight], lambda x: [x.sin() + weight]):
        _, program = replay.record(call, [torch.zeros(3)], [weight])
        assert not isinstance(program, NativeProgram)
    _, program = replay.record(lambda x: [x + weight * 0.5], [torch.zeros(3)], [weight])
    assert isinstance(program, NativeProgram)
    assert torch.equal(program(torch.ones(3))[0], torch.full((3,), 1.5))


def test_a_program_goes_with_its_step() -> None:
    step, (x, y) = replayed()
    number = native_program_of(step)._number
    assert torch.ops.fastalign.run_program(number, [x, y])
    del step
    gc.collect()
    with pytest.raises(RuntimeError):
        torch.ops.fastalign.run_program(number, [x, y])


def test_containers_hold_the_same_objects() -> None:
    one, two, three = object(), object(), object()
    containers: list[watch.Container] = [{"a": one}, [two, three], {}]
    for hold_the_same in (watch.hold_the_same, watch._hold_the_same):
        assert hold_the_same(containers, [one, two, three])
        for others in ([one, two], [one, two, three, one], [one, three, two], []):
            assert not hold_the_same(containers, others)
    with pytest.raises(TypeError, match="dictionaries and lists"):
        watch.hold_the_same([(one,)], [one])  # type: ignore[list-item]


def test_dropout_is_replayed_call_by_call() -> None:
    """Its seed is drawn by torch: such a step is recorded, but not for the extension."""
    net = network("dense")
    step = TrainStep(net, loss="cross_entropy", optimizer=MOMENTUM(list(net.parameters())))
    for batch in batches("dense", 5):
        step.step(*batch)
    assert step._last_native is None
    assert any(step._replays.values())


def test_a_copy_trains_its_own_network() -> None:
    step, batch = replayed()
    other, before = copy.deepcopy(step), copy.deepcopy(step.network.state_dict())
    for _ in range(5):
        other.optimizer.param_groups[0]["lr"] *= 0.5
        other.step(*batch)
    assert other._last_native is not None
    assert all(map(torch.equal, step.network.state_dict().values(), before.values()))
    for _ in range(5):
        step.optimizer.param_groups[0]["lr"] *= 0.5
        step.step(*batch)
    assert all(map(torch.equal, step.network.state_dict().values(), other.network.state_dict().values()))
