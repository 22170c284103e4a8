"""A network's updates are ordinary gradients to everything in torch that looks at gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import fastalign.nn as nn

RULES = ["bp", "fa", "dfa", "ifa", "drtp", "pepita"]
every_rule = pytest.mark.parametrize("rule", RULES)
TARGET = torch.tensor([0, 3, 1, 1, 2])
X = torch.rand(5, 8, generator=torch.Generator().manual_seed(0))


def network(rule: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 7, activation="tanh"), nn.Linear(7, 6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 4), rule=rule
    )


def convolutional(rule: str) -> nn.Sequential:
    torch.manual_seed(0)
    modules: list[torch.nn.Module] = [nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*modules, nn.Linear(12, 4), rule=rule, input_shape=(2, 4, 4))


every_rule_and_network = pytest.mark.parametrize(
    ("rule", "make"),
    [(rule, make) for rule in RULES for make in (network, convolutional) if (rule, make) != ("ifa", convolutional)],
)


def loss_of(net: nn.Sequential, x: Tensor = X, target: Tensor = TARGET) -> Tensor:
    torch.manual_seed(1)
    return F.cross_entropy(net(x, target), target)


def gradients(net: nn.Sequential) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def learned(net: nn.Sequential, x: Tensor = X) -> list[Tensor | None]:
    net.zero_grad()
    loss_of(net, x).backward()
    return gradients(net)


# The graph


@every_rule
def test_weights_changed_before_backward(rule: str) -> None:
    net = network(rule)
    loss = loss_of(net)
    with torch.no_grad():
        net.get_parameter("1.weight").add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("rule", ["bp", "dfa", "pepita"])
def test_weights_changed_before_backward_under_autocast(rule: str) -> None:
    """Though the step itself keeps copies of them in another dtype."""
    net = network(rule)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(net)
    with torch.no_grad():
        net.get_parameter("1.weight").add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@every_rule
def test_a_second_backward(rule: str) -> None:
    net = network(rule)
    once = learned(net)
    net.zero_grad()
    loss = loss_of(net)
    loss.backward(retain_graph=True)
    loss.backward()
    torch.testing.assert_close(gradients(net), [2 * g for g in once if g is not None])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@pytest.mark.parametrize("module", [nn.BatchNorm1d(7), nn.Block(nn.Linear(7, 7))], ids=["link", "block"])
def test_a_second_backward_through_other_modules(module: torch.nn.Module) -> None:
    net = nn.Sequential(nn.Linear(8, 7, activation="tanh"), copy.deepcopy(module), nn.Linear(7, 4), rule="bp")
    once = learned(net)
    net.zero_grad()
    loss = loss_of(net)
    loss.backward(retain_graph=True)
    loss.backward()
    torch.testing.assert_close(gradients(net), [2 * g for g in once if g is not None])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@pytest.mark.parametrize("rule", RULES[1:])
def test_no_double_backward(rule: str) -> None:
    """Those of BP: see test_second_derivatives."""
    net = network(rule)
    found = torch.autograd.grad(loss_of(net), list(net.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        sum(g.square().sum() for g in found).backward()  # type: ignore[union-attr]


@every_rule
def test_gradients_accumulate(rule: str) -> None:
    net = network(rule)
    once = learned(net)
    loss_of(net).backward()
    torch.testing.assert_close(gradients(net), [2 * g for g in once if g is not None])


def test_some_gradients_alone() -> None:
    net = network("dfa")
    expected = learned(net)
    (found,) = torch.autograd.grad(loss_of(net), [net.get_parameter("1.weight")])
    torch.testing.assert_close(found, expected[2])


@every_rule
def test_clipping(rule: str) -> None:
    net = network(rule)
    once = [g for g in learned(net) if g is not None]
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 0.01)
    torch.testing.assert_close(norm, torch.cat([g.flatten() for g in once]).norm())
    torch.testing.assert_close(gradients(net), [g * 0.01 / (norm + 1e-6) for g in once])


@pytest.mark.parametrize(
    "change",
    [lambda y: y.mul_(2), lambda y: y.add_(1), lambda y: y[:, 0].zero_()],
    ids=["multiplied", "added", "zeroed"],
)
@pytest.mark.parametrize("layers", ["linear", "batch norm", "flatten"])
@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_outputs_may_be_changed_in_place(rule: str, layers: str, change: Callable[[Tensor], Tensor]) -> None:
    """As those of a linear layer may."""
    torch.manual_seed(0)
    modules: dict[str, list[torch.nn.Module]] = {
        "linear": [nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 4)],
        "batch norm": [nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 4), nn.BatchNorm1d(4)],
        "flatten": [nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 4), nn.Flatten()],
    }
    net = nn.Sequential(*modules[layers], rule="bp")
    plain = torch.nn.Sequential(*copy.deepcopy(modules[layers]))
    if rule != "bp":
        net.set_rule(rule)
    found, expected = net(X), plain(X)
    change(found)
    change(expected)
    torch.testing.assert_close(found, expected)
    F.cross_entropy(found, TARGET).backward()
    F.cross_entropy(expected, TARGET).backward()
    assert net[-2 if layers != "linear" else -1].weight.grad is not None
    torch.testing.assert_close(net[2].weight.grad, plain[2].weight.grad)


@every_rule_and_network
def test_parameters_given_for_one_call(rule: str, make: Callable[[str], nn.Sequential]) -> None:
    """torch.func.functional_call: the gradients are of the parameters given, the module's own are left alone."""
    net = make(rule)
    x = X if make is network else torch.rand(5, 2, 4, 4)
    expected = learned(net, x)
    given = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    net.zero_grad()
    torch.manual_seed(1)
    F.cross_entropy(functional_call(net, given, (x, TARGET)), TARGET).backward()
    torch.testing.assert_close([p.grad for p in given.values()], expected)
    assert all(p.grad is None for p in net.parameters())


# Hooks


@every_rule
def test_hooks_on_parameters_fire_once(rule: str) -> None:
    net = network(rule)
    expected = learned(net)
    net.zero_grad()
    seen: list[str] = []

    def halve(name: str) -> Callable[[Tensor], Tensor]:
        def hook(gradient: Tensor) -> Tensor:
            seen.append(f"{name} gradient")
            return gradient / 2

        return hook

    for name, parameter in net.named_parameters():
        parameter.register_hook(halve(name))
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: seen.append(f"{name} accumulated"))
    loss_of(net).backward()
    names = [name for name, _ in net.named_parameters()]
    assert sorted(seen) == sorted([f"{n} gradient" for n in names] + [f"{n} accumulated" for n in names])
    torch.testing.assert_close(gradients(net), [g / 2 for g in expected if g is not None])


def test_hooks_on_parameters_of_other_modules_fire_once() -> None:
    net = nn.Sequential(nn.Linear(8, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Block(nn.Linear(7, 7)), nn.Linear(7, 4))
    net.set_rule("bp")
    seen: list[str] = []
    for name, parameter in net.named_parameters():
        parameter.register_hook(lambda _, name=name: seen.append(name))
    loss_of(net).backward()
    assert sorted(seen) == sorted(name for name, _ in net.named_parameters())


@every_rule
def test_forward_hooks_see_what_the_layers_compute(rule: str) -> None:
    """Values and their order are those of the same modules in torch.nn.Sequential; learning stays the same.

    Under BP, a network with hooks calls its modules: its dropout is then torch's.
    """
    net = network(rule)
    if rule == "bp":
        vars(net[3])["p"] = 0.0
    expected_gradients = learned(net)

    def watch(module: torch.nn.Module, seen: list[Any]) -> None:
        for part in module:  # type: ignore[attr-defined]
            part.register_forward_pre_hook(lambda m, args: seen.append((type(m).__name__, args[0].detach())))
            part.register_forward_hook(
                lambda m, args, output: seen.append((type(m).__name__, args[0].detach(), output.detach()))
            )

    plain = torch.nn.Sequential(*copy.deepcopy(list(net)))
    found: list[Any] = []
    expected: list[Any] = []
    watch(net, found)
    watch(plain.eval(), expected)
    with torch.no_grad():
        plain(X)
        net.eval()(X)
    assert [entry[0] for entry in found] == [entry[0] for entry in expected]
    torch.testing.assert_close([entry[1:] for entry in found], [entry[1:] for entry in expected])
    net.train()
    found.clear()
    torch.testing.assert_close(learned(net), expected_gradients)
    kinds = ["Linear", "Linear", "ReLU", "Dropout", "Linear"]
    assert [entry[0] for entry in found if len(entry) == 3] == kinds


def test_forward_hooks_with_keywords_and_on_convolutions() -> None:
    net = convolutional("dfa")
    seen: list[Tensor] = []
    net[0].register_forward_hook(lambda m, args, kwargs, output: seen.append(output), with_kwargs=True)
    net[1].register_forward_pre_hook(lambda m, args, kwargs: seen.append(args[0]), with_kwargs=True)
    x = torch.rand(5, 2, 4, 4)
    net(x)
    assert len(seen) == 2
    for value in seen:
        weight, bias = net.get_parameter("0.weight"), net.get_parameter("0.bias")
        torch.testing.assert_close(value, F.conv2d(x, weight, bias, padding=1))


def test_hooks_that_cannot_work_are_refused() -> None:
    net = network("dfa")
    handle = net[0].register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(RuntimeError, match=r"Linear: a forward hook may look at a layer's value .* not change it"):
        net(X)
    handle.remove()
    net[1].register_full_backward_hook(lambda module, inputs, outputs: None)
    with pytest.raises(RuntimeError, match="Linear: a backward hook on a module sees nothing under a rule"):
        net(X)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_a_backward_hook_on_the_network() -> None:
    net = network("dfa")
    seen: list[Any] = []
    net.register_full_backward_hook(lambda module, inputs, outputs: seen.extend(outputs))
    output = net(X)
    (output * torch.arange(4.0)).sum().backward()
    torch.testing.assert_close(seen, [torch.arange(4.0).expand(5, 4)])


@every_rule
def test_saved_tensor_hooks(rule: str) -> None:
    """The network keeps nothing between forward and backward that is not among autograd's saved tensors."""
    net = network(rule)
    expected = learned(net)
    net.zero_grad()
    with torch.autograd.graph.save_on_cpu():
        loss = loss_of(net)
    loss.backward()
    torch.testing.assert_close(gradients(net), expected)
    net.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.numpy().copy(), torch.from_numpy):
        loss = loss_of(net)
    loss.backward()
    torch.testing.assert_close(gradients(net), expected)


@every_rule
def test_checkpointing(rule: str) -> None:
    net = network(rule)
    expected = learned(net)
    net.zero_grad()
    torch.manual_seed(1)
    F.cross_entropy(checkpoint(net, X, TARGET, use_reentrant=False), TARGET).backward()
    torch.testing.assert_close(gradients(net), expected)


# The input


@pytest.mark.parametrize("rule", RULES[1:])
def test_an_input_that_requires_grad_is_refused(rule: str) -> None:
    """BP's true gradient of the input: see test_backpropagation."""
    net = network(rule)
    with pytest.raises(RuntimeError, match=rf"input: it requires grad, but {rule.upper()}\(.*\) defines no gradient"):
        net(X.clone().requires_grad_(), TARGET)
    with torch.no_grad():
        net(X.clone().requires_grad_())


@every_rule
def test_input_gradient_is_backpropagation(rule: str) -> None:
    net = network(rule).eval()
    plain = torch.nn.Sequential(*copy.deepcopy(list(net)))
    x = X.clone().requires_grad_()
    F.cross_entropy(plain(x), TARGET).backward()
    before = learned(net)
    with torch.no_grad():
        found = net.input_gradient(X, lambda output: F.cross_entropy(output, TARGET))
    torch.testing.assert_close(found, x.grad)
    torch.testing.assert_close(gradients(net), before)


def test_input_gradient_through_convolutions_and_blocks() -> None:
    torch.manual_seed(0)
    modules: list[torch.nn.Module] = [nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.Block(nn.Conv2d(3, 3, 1)), nn.Flatten()]
    net = nn.Sequential(*modules, nn.Linear(12, 4), rule="dfa", input_shape=(2, 6, 6))
    x = torch.rand(5, 2, 6, 6, requires_grad=True)
    F.cross_entropy(torch.nn.Sequential(*net)(x), TARGET).backward()
    net.zero_grad()
    found = net.input_gradient(x, lambda output: F.cross_entropy(output, TARGET))
    torch.testing.assert_close(found, x.grad)
    assert all(p.grad is None for p in net.parameters())


# Modes


@every_rule
def test_inference(rule: str) -> None:
    """Without gradients, and in eval mode, the network is torch's own; none needs a target."""
    net = network(rule).eval()
    plain = torch.nn.Sequential(*copy.deepcopy(list(net)))
    expected = plain(X).detach()
    with torch.no_grad():
        assert not net(X).requires_grad
        torch.testing.assert_close(net(X), expected)
    with torch.inference_mode():
        assert net(X).is_inference()
        torch.testing.assert_close(net(X).clone(), expected)
    torch.testing.assert_close(net(X).detach(), expected)


class Count(TorchDispatchMode):
    """Counts the calls of an op."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.calls = name, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func.__name__.startswith(self.name)
        return func(*args, **(kwargs or {}))


@every_rule
@pytest.mark.parametrize("frozen", [[0], [1], [4], [0, 1]], ids=str)
def test_frozen_layers_cost_no_update(rule: str, frozen: list[int]) -> None:
    net = network(rule)
    expected = learned(net)
    for index in frozen:
        net[index].requires_grad_(False)
    net.zero_grad()
    with Count("linear_update") as updates:
        loss_of(net).backward()
    assert updates.calls == 3 - len(frozen)
    for index, layer in enumerate((0, 1, 4)):
        weight, bias = net[layer].weight.grad, net[layer].bias.grad
        if layer in frozen:
            assert weight is None
            assert bias is None
        else:
            torch.testing.assert_close([weight, bias], expected[2 * index : 2 * index + 2])


@every_rule
def test_a_frozen_network(rule: str) -> None:
    net = network(rule)
    net.requires_grad_(False)
    assert not net(X, TARGET).requires_grad


@every_rule
def test_a_frozen_bias(rule: str) -> None:
    net = network(rule)
    expected = learned(net)
    net[1].bias.requires_grad_(False)
    found = learned(net)
    assert found.pop(3) is None
    del expected[3]
    torch.testing.assert_close(found, expected)


# Optimizers and precision


@every_rule
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.02),
        lambda p: torch.optim.RMSprop(p, lr=0.01),
    ],
    ids=["sgd", "adam", "rmsprop"],
)
def test_it_learns_with_any_optimizer(rule: str, make: Callable[[Any], torch.optim.Optimizer]) -> None:
    """The training error of a few separable points vanishes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32, activation="tanh"), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))
    net.set_rule(rule)
    optimizer = make(net.parameters())
    first = loss_of(net).item()
    for _ in range(80):
        optimizer.zero_grad()
        loss = loss_of(net)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * first


def relative_error(found: Tensor | None, expected: Tensor | None) -> float:
    assert found is not None
    assert expected is not None
    return float((found - expected).norm() / expected.norm())


@every_rule_and_network
def test_autocast(rule: str, make: Callable[[str], nn.Sequential]) -> None:
    """Gradients are float32 and close to those without; they come through a GradScaler unchanged."""
    net = make(rule)
    x = X if make is network else torch.rand(5, 2, 4, 4)
    expected = learned(net, x)
    net.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        output = net(x, TARGET)
        assert output.dtype == torch.bfloat16
        loss = F.cross_entropy(output, TARGET)
    if rule in ("bp", "fa", "dfa", "ifa"):
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
    else:
        loss.backward()
    for found, value in zip(gradients(net), expected, strict=True):
        assert found is not None
        assert found.dtype == torch.float32
        assert 0 < relative_error(found, value) < 0.05


@every_rule_and_network
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(rule: str, dtype: torch.dtype, make: Callable[[str], nn.Sequential]) -> None:
    net = make(rule)
    x = X if make is network else torch.rand(5, 2, 4, 4)
    expected = learned(net, x)
    for found, value in zip(learned(net.to(dtype), x.to(dtype)), expected, strict=True):
        assert found is not None
        assert found.dtype == dtype
        assert relative_error(found.float(), value) < 16 * max(torch.finfo(dtype).eps, 1e-7)
