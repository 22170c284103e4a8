"""Hooks on the modules of a network: in torch's order, with torch's numbers or an error that says what to do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

import fastalign
import fastalign.nn as nn

RULES = ["bp", "fa", "dfa", "ifa", "drtp", "pepita"]
OTHERS = RULES[1:]
X = torch.rand(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
Y = torch.tensor([0, 3, 1, 1, 2, 0])


def network(rule: str, *middle: torch.nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 7), nn.Tanh(), *middle, nn.Linear(7, 6, activation="tanh"), nn.Linear(6, 4)]
    return nn.Sequential(*layers, rule=rule).double()


def plain_of(net: nn.Sequential) -> torch.nn.Sequential:
    return torch.nn.Sequential(*copy.deepcopy(list(net)))


def learned(net: torch.nn.Module, target: bool = True) -> list[Tensor]:
    net.zero_grad()
    F.cross_entropy(net(X, Y) if target else net(X), Y).backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


# Weights that a pre-hook changes


@torch.no_grad()
def clip(layer: Any, _: Any) -> None:
    layer.weight.clamp_(min=0)


def clip_data(layer: Any, _: Any) -> None:
    layer.weight.data.clamp_(min=0)


def limit_norm(layer: Any, _: Any) -> None:
    layer.weight.data = torch.renorm(layer.weight.data, 2, 0, 0.3)


WEIGHT_HOOKS = [clip, clip_data, limit_norm]


@pytest.mark.parametrize("hook", WEIGHT_HOOKS)
@pytest.mark.parametrize("rule", RULES)
def test_a_pre_hook_that_changes_the_weight(rule: str, hook: Callable[..., None]) -> None:
    """The step is that of the changed weight, as if it had been changed before."""
    net, expected = network(rule), network(rule)
    for layer in (0, 2):
        net[layer].register_forward_pre_hook(hook)
        hook(expected[layer], ())
    torch.testing.assert_close(net(X, Y), plain_of(expected)(X))
    torch.testing.assert_close(learned(net), learned(expected))


@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_a_pre_hook_that_changes_a_kernel(rule: str) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4)]
    net = nn.Sequential(*layers, rule=rule, input_shape=(2, 8, 8)).double()
    net[0].register_forward_pre_hook(clip)
    x = torch.rand(6, 2, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(net(x), plain_of(net)(x))


@pytest.mark.parametrize("rule", RULES)
def test_hooks_that_change_a_weight_and_restore_it(rule: str) -> None:
    """The product is that of the changed weight; afterwards the weight is the old one."""
    net = network(rule)
    saved: dict[Any, Tensor] = {}

    def quantize(layer: Any, _: Any) -> None:
        saved[layer] = layer.weight.data.clone()
        layer.weight.data.copy_(layer.weight.sign() / 4)

    def restore(layer: Any, _: Any, __: Any) -> None:
        layer.weight.data.copy_(saved[layer])

    quantized = copy.deepcopy(net)
    quantize(quantized[0], ())
    before = net.get_parameter("0.weight").detach().clone()
    net[0].register_forward_pre_hook(quantize)
    net[0].register_forward_hook(restore)
    torch.testing.assert_close(net(X, Y), quantized(X, Y))
    torch.testing.assert_close(learned(net), learned(quantized))
    assert torch.equal(net.get_parameter("0.weight"), before)


@pytest.mark.parametrize("rule", OTHERS)
def test_a_pre_hook_that_replaces_the_parameter_is_refused(rule: str) -> None:
    net = network(rule)

    def replace(layer: Any, _: Any) -> None:
        layer.weight = torch.nn.Parameter(layer.weight.detach() * 2)

    net[0].register_forward_pre_hook(replace)
    with pytest.raises(RuntimeError, match=r"Linear\(.*: a forward pre-hook put another weight .* or set rule='bp'"):
        net(X, Y)


# Inputs that a pre-hook changes


class Changes(torch.nn.Module):
    """What a hook does, as a module."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(x)


def halve(_: Any, inputs: Any) -> None:
    inputs[0].mul_(0.5)


@torch.no_grad()
def halve_silently(_: Any, inputs: Any) -> None:
    inputs[0].data.mul_(0.5)


def square(_: Any, inputs: Any) -> Any:
    return (inputs[0].square(),)


def square_alone(_: Any, inputs: Any) -> Any:
    return inputs[0].square()


@pytest.mark.parametrize("hook", [halve, halve_silently, square, square_alone])
@pytest.mark.parametrize("index", [0, 2, 3])
@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "ifa", "drtp"])
def test_a_pre_hook_that_changes_a_layers_input(rule: str, index: int, hook: Callable[..., Any]) -> None:
    """It is what the layer computes with, and the presynaptic term of its update; what others have is left alone."""
    net = network(rule)
    h = plain_of(net)[:index](X).detach()
    net[index].register_forward_pre_hook(hook)
    x = X.clone()
    output = net(x, Y)
    torch.testing.assert_close(output, plain_of(net)(X.clone()))
    if rule == "bp" and hook is halve and index > 1:
        return  # torch keeps the output of Tanh, and refuses to go back through it
    F.cross_entropy(output, Y).backward()
    if rule != "bp":
        assert torch.equal(x, X)
    if index == 3:
        given = h / 2 if hook in (halve, halve_silently) else h.square()
        error = (output.softmax(1) - F.one_hot(Y, 4)).detach() / 6
        torch.testing.assert_close(net.get_parameter("3.weight").grad, error.T @ given)


@pytest.mark.parametrize("change", ["in place", "returned"])
def test_feedback_alignment_goes_back_through_a_change_of_the_input(change: str) -> None:
    """As if a module before the layer had made it."""
    net = network("fa")
    expected = network("fa", Changes(lambda x: 0.5 * x))
    hook = halve if change == "in place" else lambda _, inputs: inputs[0] * 0.5
    net[2].register_forward_pre_hook(hook)
    torch.testing.assert_close(learned(net), learned(expected))


@pytest.mark.parametrize("rule", ["fa", "dfa", "ifa", "drtp"])
def test_an_activations_input_that_is_changed(rule: str) -> None:
    """δ of the layer goes back through the change."""
    net = network(rule)
    expected = network(rule)
    expected[1] = Changes(lambda a: torch.tanh(a.square()))
    expected.load_state_dict(net.state_dict())
    net[1].register_forward_pre_hook(square)
    torch.testing.assert_close(net(X, Y), plain_of(net)(X))
    torch.testing.assert_close(learned(net), learned(expected))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_pre_hook_with_a_parameter_of_its_own(index: int) -> None:
    """It learns under BP, and would not under another rule."""
    gain = torch.tensor(1.5, dtype=X.dtype, requires_grad=True)
    for rule in ("bp", "fa", "dfa"):
        net = network(rule)
        net[index].register_forward_pre_hook(lambda _, inputs: inputs[0] * gain)
        if rule == "bp":
            learned(net)
            assert gain.grad is not None
            assert gain.grad != 0
        else:
            with pytest.raises(
                RuntimeError, match="a forward pre-hook computes with a parameter, which would not learn"
            ):
                net(X)


def test_pepita_refuses_a_changed_input() -> None:
    net = network("pepita")
    net[2].register_forward_pre_hook(halve)
    with pytest.raises(RuntimeError, match="Linear: a forward pre-hook changed its input, but PEPITA's modulated pass"):
        net(X)


def test_the_input_of_a_dropout_that_is_changed() -> None:
    net = network("dfa", nn.Dropout(0.5))
    net[2].register_forward_pre_hook(halve)
    with pytest.raises(RuntimeError, match="Dropout: a forward pre-hook changed its input"):
        net(X)


# Outputs that a forward hook changes


@torch.no_grad()
def ablate(_: Any, __: Any, output: Tensor) -> None:
    output[:, :3] = 0


def double(_: Any, __: Any, output: Tensor) -> Tensor:
    return output * 2


def double_data(_: Any, __: Any, output: Tensor) -> None:
    output.data.mul_(2)


@pytest.mark.parametrize("hook", [ablate, double])
@pytest.mark.parametrize("index", range(4))
def test_a_forward_hook_that_changes_the_output(index: int, hook: Callable[..., Any]) -> None:
    """BP has torch's numbers; other rules refuse it while they learn, and have torch's outputs without grad."""
    net = network("bp")
    net[index].register_forward_hook(hook)
    plain = plain_of(net)
    torch.testing.assert_close(net(X), plain(X))
    if hook is ablate and index in (1, 2):  # torch keeps the output of Tanh
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            learned(net)
    else:
        torch.testing.assert_close(learned(net), learned(plain, target=False))
    for rule in OTHERS:
        other = network(rule)
        other[index].register_forward_hook(hook)
        kind = type(net[index]).__name__
        with pytest.raises(RuntimeError, match=f"{kind}: a forward hook may look at .* or set rule='bp'"):
            other(X, Y)
        with torch.no_grad():
            torch.testing.assert_close(other(X), plain(X))


@pytest.mark.parametrize("rule", RULES)
def test_a_change_through_data_is_taken(rule: str) -> None:
    """Of which nobody is told: it acts on the value as in torch."""
    net = network(rule)
    for index in (0, 1, 2):
        net[index].register_forward_hook(double_data)
    torch.testing.assert_close(net(X, Y), plain_of(net)(X))


@pytest.mark.parametrize("rule", RULES)
def test_a_hook_that_returns_the_value_itself(rule: str) -> None:
    net = network(rule)
    expected = learned(net)
    net[1].register_forward_hook(lambda _, __, output: output)
    torch.testing.assert_close(learned(net), expected)


# Losses of what hooks have seen


def captured(net: torch.nn.Module, index: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    net[index].register_forward_hook(lambda _, inputs, output: found.update(x=inputs[0], h=output))  # type: ignore[index]
    return found


@pytest.mark.parametrize("where", ["x", "h"])
@pytest.mark.parametrize("index", [1, 2])
def test_a_loss_of_activations_under_bp(index: int, where: str) -> None:
    """A penalty on activities, with torch's gradients."""
    net = network("bp")
    found = []
    for module in (net, plain_of(net)):
        values = captured(module, index)
        (F.cross_entropy(module(X), Y) + values[where].abs().mean()).backward()
        found.append([p.grad for p in module.parameters()])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("where", ["x", "h"])
@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("rule", OTHERS)
def test_a_loss_of_activations_under_other_rules(rule: str, index: int, where: str) -> None:
    net = network(rule)
    values = captured(net, index)
    loss = F.cross_entropy(net(X, Y), Y) + values[where].abs().mean()
    with pytest.raises(RuntimeError, match=r"a value within the network was differentiated, .* or set rule='bp'"):
        loss.backward()
    values[where].detach().abs().mean()


LINKS: list[Callable[[], torch.nn.Module]] = [
    lambda: nn.LayerNorm(7, elementwise_affine=False),
    nn.Hardtanh,
    nn.Flatten,
]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("rule", OTHERS)
def test_a_loss_of_what_other_modules_compute(rule: str, link: Callable[[], torch.nn.Module]) -> None:
    net = network(rule, link())
    expected = learned(net)
    values = captured(net, 2)
    torch.testing.assert_close(learned(net), expected)
    for where in ("x", "h"):
        loss = F.cross_entropy(net(X, Y), Y) + values[where].abs().mean()
        with pytest.raises(RuntimeError, match=r"a value within the network was differentiated"):
            loss.backward()


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("rule", ["fa", "dfa", "ifa", "drtp"])
def test_hooks_that_change_values_of_other_modules(rule: str, link: Callable[[], torch.nn.Module]) -> None:
    """These are called, and so are their hooks: as if there were modules before and behind them."""
    net = network(rule, link())
    expected = network(rule, torch.nn.Sequential(Changes(lambda x: 0.5 * x), link(), Changes(lambda x: 2 * x)))
    net[2].register_forward_pre_hook(halve)
    net[2].register_forward_hook(double)
    torch.testing.assert_close(net(X, Y), plain_of(net)(X))
    torch.testing.assert_close(learned(net), learned(expected))


@pytest.mark.parametrize("rule", ["fa", "dfa"])
def test_a_loss_that_a_hook_computes(rule: str) -> None:
    """Within the hook itself, and of what lies inside a block."""
    net = network(rule, nn.Block(torch.nn.Sequential(nn.Linear(7, 7), nn.ReLU())))
    terms: list[Tensor] = []
    net.get_submodule("2.module.1").register_forward_hook(lambda _, __, output: terms.append(output.abs().mean()))
    net[0].register_forward_hook(lambda _, __, output: terms.append(output.abs().mean()))
    for i in range(2):
        terms.clear()
        net(X)
        with pytest.raises(RuntimeError, match="a value within the network was differentiated"):
            terms[i].backward()


# Order, containers, and hooks of all modules


def enter(name: str, log: list[Any], _: Any, x: Any) -> None:
    log.append((name, x[0].detach()))


def leave(name: str, log: list[Any], _: Any, x: Any, y: Tensor) -> None:
    log.append((name, x[0].detach(), y.detach()))


@pytest.mark.parametrize("rule", RULES)
def test_hooks_run_in_torchs_order(rule: str) -> None:
    """Those of nested chains and identities too, with the inputs and outputs that torch gives them."""
    torch.manual_seed(0)
    inner = torch.nn.Sequential(nn.Identity(), nn.Linear(8, 7), torch.nn.Sequential(nn.Tanh()))
    net = nn.Sequential(inner, nn.Identity(), nn.Linear(7, 4), nn.Sequential(nn.Identity()), rule=rule).double()
    plain = plain_of(net)
    expected_gradients = learned(net)
    calls: dict[object, list[Any]] = {}
    for module in (net, plain):
        log = calls.setdefault(module, [])
        for name, part in module.named_modules():
            if part is module:
                continue
            part.register_forward_pre_hook(partial(enter, name, log))
            part.register_forward_hook(partial(leave, name, log))
    plain(X)
    torch.testing.assert_close(learned(net), expected_gradients)
    assert [call[0] for call in calls[net]] == [call[0] for call in calls[plain]]
    torch.testing.assert_close([call[1:] for call in calls[net]], [call[1:] for call in calls[plain]])


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "drtp"])
def test_hooks_on_chains_that_take_tokens(rule: str) -> None:
    torch.manual_seed(0)
    inner = torch.nn.Sequential(nn.Identity(), torch.nn.Sequential(nn.Embedding(9, 3), nn.Flatten()))
    net = nn.Sequential(inner, nn.Linear(12, 4), rule=rule, input_shape=(4,))
    tokens, seen = torch.arange(8).reshape(2, 4), []
    F.cross_entropy(net(tokens, Y[:2]), Y[:2]).backward()
    expected = [p.grad for p in net.parameters()]
    for part in inner.modules():
        part.register_forward_hook(lambda module, x, y: seen.append((type(module).__name__, x[0], y)))
    net.zero_grad()
    F.cross_entropy(net(tokens, Y[:2]), Y[:2]).backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], expected)
    assert [call[0] for call in seen] == ["Identity", "Embedding", "Flatten", "Sequential", "Sequential"]
    assert torch.equal(seen[-1][1], tokens)
    assert not seen[0][2].requires_grad


@pytest.mark.parametrize("rule", OTHERS)
def test_hooks_on_nested_chains_may_look_only(rule: str) -> None:
    for register, hook in (("register_forward_pre_hook", halve), ("register_forward_hook", double)):
        torch.manual_seed(0)
        net = nn.Sequential(torch.nn.Sequential(nn.Linear(8, 7), nn.Tanh()), nn.Linear(7, 4), rule=rule).double()
        getattr(net[0], register)(hook)
        with pytest.raises(RuntimeError, match=r"Sequential: a forward (pre-)?hook.* may look"):
            net(X, Y)


@pytest.mark.parametrize("rule", RULES)
def test_hooks_of_all_modules(rule: str) -> None:
    """torch.nn.modules.module.register_module_forward_hook, as summaries and trackers use it."""
    net = network(rule, torch.nn.Sequential(nn.Identity()))
    plain = plain_of(net)
    expected_gradients = learned(net)
    seen: list[Any] = []
    handles = [
        register_module_forward_pre_hook(lambda module, x: seen.append((type(module).__name__, x[0].detach()))),
        register_module_forward_hook(lambda module, x, y: seen.append((type(module).__name__, y.detach()))),
    ]
    try:
        plain(X)
        expected = seen[1:-1]
        seen.clear()
        gradients = learned(net)
    finally:
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(gradients, expected_gradients)
    assert [call[0] for call in seen[1:-1]] == [call[0] for call in expected]
    torch.testing.assert_close([call[1] for call in seen[1:-1]], [call[1] for call in expected])


def receive(seen: list[Tensor], _: Any, dx: Any, dy: Any) -> None:
    seen.extend((*dx, *dy))


def test_backward_hooks_under_bp() -> None:
    net = network("bp")
    found: list[Any] = []
    for module in (net, plain_of(net)):
        seen: list[Tensor] = []
        module[2].register_full_backward_hook(partial(receive, seen))
        learned(module, target=module is net)
        found.append(seen)
    assert len(found[0]) == 2
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("hook", [clip_data, square])
@pytest.mark.parametrize("rule", ["bp", "fa", "dfa"])
def test_a_training_step_calls_hooks_as_the_loop_does(rule: str, hook: Callable[..., None]) -> None:
    weights = []
    for fused in (False, True):
        net = network(rule)
        net[2].register_forward_pre_hook(hook)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        step = fastalign.TrainStep(net, loss="cross_entropy", optimizer=optimizer)
        for _ in range(4):
            if fused:
                step.step(X.clone(), Y)
            else:
                optimizer.zero_grad()
                F.cross_entropy(net(X.clone()), Y).backward()
                optimizer.step()
        weights.append([p.detach() for p in net.parameters()])
    torch.testing.assert_close(weights[1], weights[0])


@pytest.mark.parametrize("rule", RULES)
def test_hooks_that_come_and_go(rule: str) -> None:
    net = network(rule)
    expected = learned(net)
    seen: list[str] = []
    handle = net[1].register_forward_hook(lambda *_: seen.append("called"))
    torch.testing.assert_close(learned(net), expected)
    handle.remove()
    assert seen == ["called"]
    assert all(map(torch.equal, learned(net), expected))
    assert seen == ["called"]
