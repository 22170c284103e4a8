"""Every rule against the plain loops of `plain`: dense, with dropout, convolutional; in two sizes of batch."""

from __future__ import annotations

from typing import Any

import plain
import pytest
import torch
import torch.nn.functional as F
from plain import PlainLayer
from torch import Tensor

import fastalign.nn as nn
from fastalign import rules
from fastalign.ops import reference
from fastalign.ops.activations import Activation

CLASSES = 3
ARCHITECTURES = ("dense", "dropout", "conv", "strided conv")


def network(architecture: str, rule: rules.Rule | str) -> nn.Sequential:
    """Several layers of unlike widths, activations and paddings; tanh and ReLU kept from their outputs."""
    torch.manual_seed(0)
    if architecture == "dense":
        modules: list[torch.nn.Module] = [
            nn.Linear(6, 7, activation="tanh"),
            nn.Linear(7, 5),
            nn.Softplus(),
            nn.Linear(5, 4, activation="sigmoid"),
            nn.Linear(4, CLASSES),
        ]
        shape: tuple[int, ...] = (6,)
    elif architecture == "dropout":
        modules = [
            nn.Dropout(0.2),
            nn.Linear(6, 12, activation="tanh"),
            nn.Dropout(0.5),
            nn.Linear(12, 9),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(9, CLASSES),
        ]
        shape = (6,)
    elif architecture == "conv":
        modules = [
            nn.Conv2d(2, 3, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(3, 4, 2),
            nn.Tanh(),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(16, CLASSES),
        ]
        shape = (2, 7, 7)
    else:
        modules = [
            nn.Flatten(2),
            nn.Unflatten(2, (6, 5)),
            nn.Conv2d(1, 3, 3, stride=2, padding=2, activation="tanh"),
            nn.Flatten(),
            nn.Linear(48, 5, activation="relu"),
            nn.Linear(5, CLASSES),
        ]
        shape = (1, 6, 5)
    return nn.Sequential(*modules, rule=rule, input_shape=shape).double()


def drawn_masks(x: Tensor, p: float) -> list[Tensor | float]:
    """The factors of the dropout that comes next, from torch's generator and the counter-based one."""
    seed = torch.randint(2**63 - 1, (1,))
    return list(reference.dropout_factor(x, p, seed))


def plain_layers(net: nn.Sequential, x: Tensor, seed: int) -> tuple[list[PlainLayer], list[Tensor | float] | None]:
    """The network as plain layers, with the masks that a pass after this seed draws; and the masks of the input."""
    torch.manual_seed(seed)
    layers: list[PlainLayer] = []
    input_masks = None
    h = x.double()
    for module in net:
        match module:
            case torch.nn.Linear() | torch.nn.Conv2d():
                weight, bias = (p.detach().double() for p in module.parameters())
                own: Activation = getattr(module, "activation")  # noqa: B009
                layers.append(PlainLayer(weight, bias, own.name.lower()))
                if isinstance(module, torch.nn.Conv2d):
                    layers[-1].padding, layers[-1].stride = int(module.padding[0]), module.stride[0]
            case torch.nn.Dropout() if layers:
                layers[-1].masks = drawn_masks(h, module.p)
                h = h * torch.stack([torch.as_tensor(mask) for mask in layers[-1].masks])
                continue
            case torch.nn.Dropout():
                input_masks = drawn_masks(h, module.p)
                h = h * torch.stack([torch.as_tensor(mask) for mask in input_masks])
                continue
            case torch.nn.MaxPool2d():
                layers[-1].pool = (module.kernel_size, module.stride)  # type: ignore[assignment]
            case torch.nn.Flatten() | torch.nn.Unflatten():
                pass
            case _:
                layers[-1].activation = type(module).__name__.lower()
        with torch.no_grad():
            h = module.double()(h)
    return layers, input_masks


def batch(net: nn.Sequential, size: int) -> tuple[Tensor, Tensor]:
    assert net.input_shape is not None
    generator = torch.Generator().manual_seed(size)
    x = torch.rand(size, *net.input_shape, dtype=torch.float64, generator=generator)
    return x, torch.randint(CLASSES, (size,), generator=generator)


def gradients(net: nn.Sequential, x: Tensor, target: Tensor, seed: int) -> list[tuple[Tensor | None, Tensor | None]]:
    torch.manual_seed(seed)
    net.zero_grad()
    F.cross_entropy(net(x, target), target).backward()
    layers = [module for module in net if isinstance(module, nn.Linear | nn.Conv2d)]
    return [(weight.grad, bias.grad) for weight, bias in (layer.parameters() for layer in layers)]


def expected(net: nn.Sequential, name: str, x: Tensor, target: Tensor, seed: int, **settings: Any) -> plain.Updates:
    matrices = [None if m is None else m.double() for m in net.feedback]
    projection = None if net.projection is None else net.projection.double()
    layers, input_masks = plain_layers(net, x, seed)
    if projection is not None:
        return plain.pepita(layers, x.double(), target, projection, input_masks, **settings)
    x = x if input_masks is None else x * torch.stack([torch.as_tensor(mask) for mask in input_masks])
    return plain.learn(name, layers, x.double(), target, matrices, **settings)  # type: ignore[arg-type]


def check(net: nn.Sequential, name: str, size: int, **settings: Any) -> None:
    x, target = batch(net, size)
    found = gradients(net, x, target, seed=size)
    for (weight, bias), (plain_weight, plain_bias) in zip(
        found, expected(net, name, x, target, seed=size, **settings), strict=True
    ):
        assert plain_weight.abs().sum() > 0
        torch.testing.assert_close(weight, plain_weight, rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(bias, plain_bias, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "rule",
    [
        rules.BP(),
        rules.FA(feedback="he-uniform"),
        rules.FA(),
        rules.DFA(),
        rules.DFA(feedback="he-uniform", shared_feedback=True),
        rules.DFA(sign_of_error=True),
        rules.DRTP(),
    ],
    ids=repr,
)
def test_rules_are_their_equations(architecture: str, rule: rules.Rule) -> None:
    net = network(architecture, rule)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1.5)  # so that FA's copies of the initial weights are none of these
    settings = {"sign_of_error": True} if getattr(rule, "sign_of_error", False) else {}
    check(net, rule.name, 4, **settings)
    check(net, rule.name, 1, **settings)


@pytest.mark.parametrize("architecture", ["dense", "dropout"])
def test_ifa_is_its_equation(architecture: str) -> None:
    check(network(architecture, "ifa"), "ifa", 4)


PEPITA_VARIANTS: list[dict[str, Any]] = [
    {},
    {"presynaptic": "standard"},
    {"output_error": "modulated"},
    {"output_error": "modulated", "output": "logistic", "presynaptic": "standard"},
    {"output_error": "modulated", "output": "identity"},
    {"sign": -1.0},
    {"divisor": "sqrt"},
    {"divisor": "authors"},
    {"update": "hebbian"},
    {"sign_of_error": True},
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("settings", PEPITA_VARIANTS, ids=str)
def test_pepita_is_two_passes(architecture: str, settings: dict[str, Any]) -> None:
    """The delta form gives what the difference of two passes gives, folded first product (N > C) or not."""
    net = network(architecture, rules.PEPITA(projection_scale=1.0, **settings))
    check(net, "pepita", 5, **settings)
    check(net, "pepita", 2, **settings)


def test_frozen_filters_stay() -> None:
    net = network("conv", rules.PEPITA(frozen_filters=True, projection_scale=1.0))
    x, target = batch(net, 4)
    *filters, (weight, bias) = gradients(net, x, target, seed=0)
    assert filters == [(None, None)] * 2
    plain_weight, plain_bias = expected(net, "pepita", x, target, seed=0)[-1]
    torch.testing.assert_close((weight, bias), (plain_weight, plain_bias), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "ifa", "drtp", rules.PEPITA(projection_scale=1.0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_in_lower_precision(rule: str | rules.Rule, dtype: torch.dtype) -> None:
    """The same updates to the digits of the format: within the sum of some eight roundings."""
    name = rules.named(rule).name
    net = network("dropout" if name == "ifa" else "conv", rule)
    x, target = batch(net, 5)
    net, x = net.to(dtype), x.to(dtype)
    found = [[p.clone() for p in updates if p is not None] for updates in gradients(net, x, target, seed=0)]
    for weights, plain_weights in zip(found, expected(net.double(), name, x, target, seed=0), strict=True):
        for update, plain_update in zip(weights, plain_weights, strict=True):
            assert update.dtype == dtype
            assert (update - plain_update).norm() <= 8 * torch.finfo(dtype).eps * plain_update.norm()
