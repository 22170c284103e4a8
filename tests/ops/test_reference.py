"""The reference itself, against loops over single numbers written by hand, on tiny cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fastalign.ops import reference
from fastalign.ops.activations import Activation
from fastalign.ops.descent import Descent, Settings

F: dict[Activation, Callable[[float], float]] = {
    Activation.IDENTITY: lambda a: a,
    Activation.TANH: math.tanh,
    Activation.LOGISTIC: lambda a: 1 / (1 + math.exp(-a)),
    Activation.RELU: lambda a: max(a, 0.0),
    Activation.LEAKY_RELU: lambda a: a if a > 0 else 0.01 * a,
    Activation.ELU: lambda a: a if a > 0 else math.exp(a) - 1,
    Activation.SOFTPLUS: lambda a: math.log(1 + math.exp(a)),
    Activation.SILU: lambda a: a / (1 + math.exp(-a)),
    Activation.GELU: lambda a: a / 2 * (1 + math.erf(a / math.sqrt(2))),
}
activations = pytest.mark.parametrize("activation", Activation, ids=lambda a: a.name.lower())


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slope(activation: Activation, a: float) -> float:
    """f′(a), by a central difference."""
    step = 1e-5
    return (F[activation](a + step) - F[activation](a - step)) / (2 * step)


def close(actual: Tensor, expected: Sequence[object], tolerance: float = 1e-12) -> bool:
    return torch.allclose(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)


@activations
def test_activation(activation: Activation) -> None:
    a, delta = 2 * draw(17), 0.1 * draw(17, seed=1)
    numbers = list(zip(a.tolist(), delta.tolist(), strict=True))
    f = F[activation]
    assert close(reference.activation_forward(a, activation, 0.0, None), [f(x) for x, _ in numbers])
    assert close(
        reference.activation_difference(a, delta, activation, 0.0, None), [f(x + d) - f(x) for x, d in numbers]
    )
    backward = reference.activation_backward(delta, a, activation, False, 0.0, None)
    assert close(backward, [d * slope(activation, x) for x, d in numbers], 1e-9)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("activation", [a for a in Activation if a.derivative_follows_from_output])
def test_derivative_from_the_output_is_that_from_the_preactivation(activation: Activation, dropout: float) -> None:
    a, signal, seed = draw(40), draw(40, seed=1), torch.tensor([7])
    h = reference.activation_forward(a, activation, dropout, seed)
    from_output = reference.activation_backward(signal, h, activation, True, dropout, seed)
    assert torch.allclose(from_output, reference.activation_backward(signal, a, activation, False, dropout, seed))


def test_no_slope_at_zero() -> None:
    zero, one = torch.zeros(1), torch.ones(1)
    for given_output in (False, True):
        assert reference.activation_backward(one, zero, Activation.RELU, given_output, 0.0, None).item() == 0


@pytest.mark.parametrize("activation", Activation, ids=lambda a: a.name.lower())
def test_difference(activation: Activation) -> None:
    """That of two activities in float64; in float32 without the error of their difference, so small is Δ."""
    a, direction = 4 * draw(4000), draw(4000, seed=1)
    for size in (1e-4, 0.1, 3.0):
        delta = size * direction
        direct = reference.activate(a + delta, activation) - reference.activate(a, activation)
        difference = reference.activation_difference(a, delta, activation, 0.0, None)
        torch.testing.assert_close(difference, direct, rtol=0, atol=1e-13)
    delta = 1e-4 * direction
    in_float32 = reference.activation_difference(a.float(), delta.float(), activation, 0.0, None).double()
    truth = reference.activation_difference(a.float().double(), delta.float().double(), activation, 0.0, None)
    assert (in_float32 - truth).norm() < 1e-6 * truth.norm()


def test_feedback_term() -> None:
    signal, feedback, a = draw(3, 2), draw(4, 2, seed=1), draw(3, 4, seed=2)
    s, b, kept = signal.tolist(), feedback.tolist(), a.tolist()
    expected = [
        [sum(s[n][c] * b[h][c] for c in range(2)) * (1 - math.tanh(kept[n][h]) ** 2) for h in range(4)]
        for n in range(3)
    ]
    assert close(reference.feedback_term(signal, feedback, a, Activation.TANH, False, 0.0, None), expected)
    (term,) = reference.feedback_terms(signal, [feedback], [a], Activation.TANH, False)
    assert close(term, expected)


def test_linear() -> None:
    x, weight, bias, delta = draw(3, 2), draw(4, 2, seed=1), draw(4, seed=2), 0.1 * draw(3, 2, seed=3)
    preactivation = [
        [bias[h].item() + sum(x[n][k].item() * weight[h][k].item() for k in range(2)) for h in range(4)]
        for n in range(3)
    ]
    h, a = reference.linear_forward(x, weight, bias, Activation.TANH, 0.0, None, True)
    assert close(a, preactivation)
    assert close(h, [[math.tanh(value) for value in row] for row in preactivation])
    moved, _ = reference.linear_forward(x + delta, weight, bias, Activation.TANH, 0.0, None, False)
    difference = reference.linear_difference(delta, weight, a, Activation.TANH, 0.0, None)
    assert torch.allclose(difference, moved - h, rtol=0, atol=1e-12)


def test_updates() -> None:
    h, h_mod, x_mod = draw(3, 4), draw(3, 4, seed=1), draw(3, 2, seed=2)
    expected = [
        [sum((h[n][i] - h_mod[n][i]).item() * x_mod[n][j].item() for n in range(3)) / 3 for j in range(2)]
        for i in range(4)
    ]
    weight_update, bias_update = reference.pepita_linear_update(h, h_mod, x_mod)
    assert close(weight_update, expected)
    assert close(bias_update, [sum((h[n][i] - h_mod[n][i]).item() for n in range(3)) / 3 for i in range(4)])


def test_convolution_update() -> None:
    """Output position by output position, tap by tap, with stride, padding, dilation and groups."""
    stride, padding, dilation, groups = (2, 1), (1, 0), (1, 2), 2
    post, pre = draw(2, 4, 3, 4), draw(2, 2, 5, 6, seed=1)
    kernel = (2, 2)
    expected = torch.zeros(4, 1, *kernel, dtype=torch.float64)
    for n in range(2):
        for co in range(4):
            ci = co // (4 // groups)
            for y in range(3):
                for x in range(4):
                    for i in range(2):
                        for j in range(2):
                            row = y * stride[0] - padding[0] + i * dilation[0]
                            column = x * stride[1] - padding[1] + j * dilation[1]
                            if 0 <= row < 5 and 0 <= column < 6:
                                expected[co, 0, i, j] += post[n, co, y, x] * pre[n, ci, row, column]
    update, bias_update = reference.conv2d_update(post, pre, kernel, stride, padding, dilation, groups, 0.5, True)
    assert torch.allclose(update, 0.5 * expected)
    assert torch.allclose(bias_update, 0.5 * post.sum((0, 2, 3)))
    zero = torch.zeros_like(post)
    pepita, _ = reference.pepita_conv2d_update(post, zero, pre, kernel, stride, padding, dilation, groups)
    assert torch.allclose(pepita, expected / (2 * 3 * 4))


def test_pooling_back() -> None:
    """By autograd, through an activation and through windows that overlap."""
    a = draw(2, 3, 5, 7).requires_grad_()
    window = ([3, 2], [2, 1], [1, 0], [1, 2], False)
    h = torch.tanh(a)
    pooled = reference.max_pool2d_forward(h, *window)
    signal = draw(*pooled.shape, seed=1)
    (expected,) = torch.autograd.grad(torch.nn.functional.max_pool2d(h, *window), a, signal)
    for kept, given_output in ((h, True), (a, False)):
        values = (signal, h.detach(), kept.detach(), Activation.TANH, given_output, 0.0, None)
        assert torch.allclose(reference.max_pool2d_backward(*values, *window), expected)


def test_pooling_difference() -> None:
    h, delta = draw(1, 1, 4, 4), draw(1, 1, 4, 4, seed=1)
    window = ([2, 2], [2, 2], [0, 0], [1, 1], False)

    def pooled(values: Tensor) -> list[list[float]]:
        return [
            [max(values[0, 0, 2 * y + i, 2 * x + j].item() for i in (0, 1) for j in (0, 1)) for x in (0, 1)]
            for y in (0, 1)
        ]

    difference = reference.max_pool2d_difference(h, delta, *window)
    expected = torch.tensor(pooled(h + delta), dtype=torch.float64) - torch.tensor(pooled(h), dtype=torch.float64)
    assert torch.allclose(difference[0, 0], expected)


def test_modulated_input() -> None:
    x, error, projection = draw(3, 4), draw(3, 2, seed=1), draw(4, 2, seed=2)
    expected = [
        [x[n][d].item() - 0.5 * sum(projection[d][c].item() * error[n][c].item() for c in range(2)) for d in range(4)]
        for n in range(3)
    ]
    assert close(reference.modulate_input(x, error, projection, -0.5), expected)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("descent", Descent, ids=lambda descent: descent.name.lower())
def test_steps_are_those_of_torch(descent: Descent, weight_decay: float) -> None:
    """Three of them, on parameters of two shapes."""
    expected = [draw(4, 3).requires_grad_(), draw(5, seed=1).requires_grad_()]
    parameters = [parameter.detach().clone() for parameter in expected]
    states = [torch.zeros_like(parameter) for parameter in parameters for _ in range(descent.states)]
    rate, momentum, square_decay, epsilon = 0.1, 0.9, 0.99, 1e-3
    named: dict[str, Any] = {"lr": rate, "weight_decay": weight_decay}
    optimizer: torch.optim.Optimizer
    match descent:
        case Descent.SGD | Descent.MOMENTUM | Descent.NESTEROV:
            named["momentum"] = 0.0 if descent is Descent.SGD else momentum
            optimizer = torch.optim.SGD(expected, nesterov=descent is Descent.NESTEROV, **named)
        case Descent.RMSPROP:
            optimizer = torch.optim.RMSprop(expected, alpha=square_decay, eps=epsilon, **named)
        case Descent.ADAM | Descent.ADAMW:
            kind = torch.optim.Adam if descent is Descent.ADAM else torch.optim.AdamW
            optimizer = kind(expected, betas=(momentum, square_decay), eps=epsilon, **named)
    for step in range(1, 4):
        gradients = [draw(*parameter.shape, seed=7 * step) for parameter in parameters]
        for parameter, gradient in zip(expected, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        corrections = 1 - momentum**step, 1 - square_decay**step
        settings = Settings(rate, weight_decay, momentum, square_decay, epsilon, *corrections)
        reference.optimizer_steps_(parameters, states, gradients, descent, settings.as_tensor())
    for actual, parameter in zip(parameters, expected, strict=True):
        torch.testing.assert_close(actual, parameter.detach(), rtol=1e-13, atol=1e-13)


def test_linear_steps_are_steps_down_the_updates() -> None:
    """With biases and without."""
    settings = Settings(0.1, 0.01, 0.9).as_tensor()
    post, pre = [draw(3, 4), draw(3, 2, seed=1)], [draw(3, 5, seed=2), draw(3, 4, seed=3)]
    weights, biases = [draw(4, 5, seed=4), draw(2, 4, seed=5)], [draw(4, seed=6), draw(2, seed=7)]
    for with_bias in (True, False):
        parameters = [p.clone() for p in (*weights, *(biases if with_bias else []))]
        states = [torch.ones_like(p) for p in parameters]
        updates = [reference.linear_update(t, h, s, True) for t, h, s in zip(post, pre, (0.5, -2.0), strict=True)]
        gradients = [weight for weight, _ in updates] + [bias for _, bias in updates]
        expected = [p.clone() for p in parameters]
        reference.optimizer_steps_(
            expected, [s.clone() for s in states], gradients[: len(expected)], Descent.MOMENTUM, settings
        )
        layers = parameters[:2], parameters[2:], states[:2], states[2:]
        reference.linear_steps_(*layers, post, pre, [0.5, -2.0], Descent.MOMENTUM, settings)
        assert all(torch.equal(one, other) for one, other in zip(parameters, expected, strict=True))
