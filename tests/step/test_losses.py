from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastalign.papers.runs.optimizers import learning_rate_at, make_optimizer
from fastalign.step.losses import LOSSES, loss_named

PREDICTIONS = {
    "cross_entropy": lambda a: a.softmax(1),
    "binary_cross_entropy": torch.sigmoid,
    "mse": lambda a: a,
}


@pytest.fixture
def outputs() -> Tensor:
    return torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize("name", LOSSES)
def test_the_error_of_every_loss_is_prediction_minus_target(name: str, outputs: Tensor) -> None:
    labels = torch.tensor([0, 3, 1, 1, 2])
    loss_named(name)(outputs, labels).backward()
    target = torch.eye(4, dtype=torch.float64)[labels]
    torch.testing.assert_close(outputs.grad, PREDICTIONS[name](outputs.detach()) - target)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_bfloat16_outputs_are_summed_in_float32(name: str, outputs: Tensor) -> None:
    labels = torch.tensor([0, 3, 1, 1, 2])
    loss = loss_named(name)(outputs.bfloat16(), labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), loss_named(name)(outputs.bfloat16().double(), labels))


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="loss is 'hinge', expected one of cross_entropy"):
        loss_named("hinge")
    with pytest.raises(ValueError, match="optimizer is 'lion', expected one of sgd"):
        make_optimizer("lion", [], 0.1)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sgd", {"momentum": 0.9, "weight_decay": 0}),
        ("rmsprop", {"alpha": 0.99, "eps": 1e-8, "momentum": 0, "weight_decay": 0, "centered": False}),
        ("adam", {"betas": (0.9, 0.999), "weight_decay": 0}),
        ("adamw", {"betas": (0.9, 0.999)}),
    ],
)
def test_optimizers_have_the_papers_defaults_and_leave_frozen_parameters_out(
    name: str, settings: dict[str, object]
) -> None:
    layer = torch.nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    [group] = make_optimizer(name, layer.parameters(), 0.25).param_groups
    assert group["params"] == [layer.weight]
    assert group["lr"] == 0.25
    assert {key: group[key] for key in settings} == settings


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "first_step"),
    [("sgd", 0.125), ("rmsprop", 0.125 / math.sqrt(0.01)), ("adam", 0.125), ("adamw", 0.125 + 0.125 * 0.01)],
)
def test_every_element_makes_its_first_step_in_every_dtype(name: str, first_step: float, dtype: torch.dtype) -> None:
    parameter = torch.nn.Parameter(torch.ones(37, dtype=dtype))
    parameter.grad = torch.ones_like(parameter)
    make_optimizer(name, [parameter], 0.125).step()
    torch.testing.assert_close(
        parameter.detach().double(), torch.full((37,), 1 - first_step).double(), rtol=0, atol=5e-3
    )


def test_the_learning_rate_falls_after_each_of_the_decay_epochs() -> None:
    rates = [learning_rate_at(epoch, 0.1, (2, 4), 0.1) for epoch in range(1, 7)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert learning_rate_at(1000, 0.1, (), 0.1) == 0.1
