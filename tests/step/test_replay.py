"""What is recorded of a function of tensors, and what is not."""

from __future__ import annotations

import torch
from torch import Tensor

from fastalign.step.replay import record


def test_what_lies_in_one_place_is_not_recorded() -> None:
    x, weight = torch.ones(3), torch.ones(3)
    for inputs in ((x, x), (x, weight)):
        results, program = record(lambda a, b: [a - b], inputs, [weight])
        assert torch.equal(results[0], torch.zeros(3))
        assert program is None


def test_what_comes_from_elsewhere_is_not_recorded() -> None:
    """Nor what lies where a tensor of the step was."""
    elsewhere = torch.ones(1000)

    def with_new_memory(x: Tensor) -> list[Tensor]:
        y = (x * 2) + 1
        return [y * torch.tensor([1.0] * 1000)]

    for step in (lambda x: [x * elsewhere], with_new_memory):
        _, program = record(step, [torch.ones(1000)], [])
        assert program is None


def test_views_of_one_place_are_told_apart() -> None:
    torch.manual_seed(0)
    weight = torch.rand(3, 3)

    def step(x: Tensor) -> list[Tensor]:
        return [x @ weight.T + x.T @ weight, x.T - x]

    _, program = record(step, [torch.rand(3, 3)], [weight])
    assert program is not None
    x = torch.rand(3, 3)
    torch.testing.assert_close(program(x), step(x), rtol=0, atol=0)


def test_what_python_learns_a_number_of_is_not_recorded() -> None:
    """It may decide by it, and a replay would not."""
    results, program = record(lambda x: [x * x.sum().item()], [torch.ones(3)], [])
    assert torch.equal(results[0], torch.full((3,), 3.0))
    assert program is None
