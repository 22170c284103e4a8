"""Steps of optimizers: on a gradient, and on a linear layer from its two terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastalign.bench.cases.case import TANH, Case, Draw, operands, plain_term_from_output, product_text
from fastalign.ops.descent import Descent, Settings
from fastalign.ops.schemas import kernels

DESCENTS = {
    Descent.SGD: Settings(1e-3),
    Descent.MOMENTUM: Settings(1e-3, momentum=0.9),
    Descent.NESTEROV: Settings(1e-3, momentum=0.9),
    Descent.RMSPROP: Settings(1e-4, square_decay=0.99, epsilon=1e-8),
    Descent.ADAM: Settings(1e-4, 0.0, 0.9, 0.999, 1e-8),
    Descent.ADAMW: Settings(1e-4, 0.01, 0.9, 0.999, 1e-8),
}


def _plain_step(weight: Tensor, states: list[Tensor], gradient: Tensor, descent: Descent) -> None:
    """The first step of an optimizer, as one writes it."""
    rate, decay, momentum, square_decay, epsilon, *_ = DESCENTS[descent]
    match descent:
        case Descent.SGD:
            weight.sub_(gradient, alpha=rate)
        case Descent.MOMENTUM:
            weight.sub_(states[0].mul_(momentum).add_(gradient), alpha=rate)
        case Descent.NESTEROV:
            weight.sub_(gradient.add(states[0].mul_(momentum).add_(gradient), alpha=momentum), alpha=rate)
        case Descent.RMSPROP:
            states[0].mul_(square_decay).addcmul_(gradient, gradient, value=1 - square_decay)
            weight.addcdiv_(gradient, states[0].sqrt().add_(epsilon), value=-rate)
        case _:
            weight.mul_(1 - rate * decay)
            states[0].lerp_(gradient, 1 - momentum)
            states[1].mul_(square_decay).addcmul_(gradient, gradient, value=1 - square_decay)
            weight.addcdiv_(states[0], states[1].sqrt().add_(epsilon), value=-rate)


def _of_torch(descent: Descent, weight: Tensor) -> torch.optim.Optimizer:
    """torch's optimizer of the same step, fused where it is."""
    rate = DESCENTS[descent].learning_rate
    # NOTE: the fused optimizers of torch 2.13 leave half-precision parameters on the CPU as they are.
    fused = weight.is_cuda or weight.itemsize >= 4
    how: dict[str, Any] = {"fused": True} if fused else {"foreach": True}
    match descent:
        case Descent.SGD:
            return torch.optim.SGD([weight], rate, **how)
        case Descent.MOMENTUM | Descent.NESTEROV:
            return torch.optim.SGD([weight], rate, momentum=0.9, nesterov=descent is Descent.NESTEROV, **how)
        case Descent.RMSPROP:
            return torch.optim.RMSprop([weight], rate, foreach=True)
        case Descent.ADAM:
            return torch.optim.Adam([weight], rate, **how)
        case _:
            return torch.optim.AdamW([weight], rate, **how)


def momentum_steps(draw: Draw, shape: tuple[int, ...]) -> Iterator[Case]:
    """Steps of SGD with momentum, which most of the papers' experiments use."""
    return _steps(draw, shape, Descent.MOMENTUM)


def other_steps(draw: Draw, shape: tuple[int, ...]) -> Iterator[Case]:
    """Steps of the other optimizers."""
    for descent in Descent:
        if descent is not Descent.MOMENTUM:
            yield from _steps(draw, shape, descent)


def feedback_steps(draw: Draw, shape: tuple[int, ...]) -> Iterator[Case]:
    """Steps of a layer under direct feedback, of ten classes."""
    samples, inputs, units = shape
    e, b, h = draw(samples, 10), draw(units, 10), torch.tanh(draw(samples, units))
    pre, weight = draw(samples, inputs), draw(units, inputs)
    momentum, delta = torch.zeros_like(weight), torch.empty_like(h)
    kind, settings = Descent.MOMENTUM, DESCENTS[Descent.MOMENTUM].as_tensor(draw.device)
    moved = operands(shape) + e.numel() + b.numel() + 3 * weight.numel()
    product, copy = torch.empty_like(weight), draw.copy_of(4 * weight.numel())

    def plain(weight: Tensor, states: list[Tensor], e: Tensor, b: Tensor, h: Tensor, pre: Tensor) -> None:
        _plain_step(weight, states, plain_term_from_output(e, b, h).T @ pre, kind)

    def product_and_copy() -> None:
        torch.mm(delta.t(), pre, out=product)
        copy()

    def in_place() -> None:
        torch.mm(e, b.t(), out=delta)
        torch.ops.aten.tanh_backward.grad_input(delta, h, grad_input=delta)
        momentum.addmm_(delta.t(), pre, beta=0.9)
        weight.sub_(momentum, alpha=1e-3)

    yield Case(
        "feedback_steps_, momentum",
        f"{product_text(shape)}, C = 10",
        lambda: kernels.feedback_steps_(
            [weight], [], [momentum], [], e, [b], [h], [pre], TANH, True, [1.0], int(kind), settings
        ),
        plain,
        (weight, [momentum], e, b, h, pre),
        product_and_copy,
        in_place,
        "mm, tanh_backward, addmm_ into the momentum, sub_",
        draw.bytes(moved),
        operations=2 * samples * inputs * units,
    )


def _steps(draw: Draw, shape: tuple[int, ...], descent: Descent) -> Iterator[Case]:
    """An optimizer's step on a gradient, and on a layer from its two terms."""
    samples, inputs, units = shape
    post, pre, weight = draw(samples, units), draw(samples, inputs), draw(units, inputs)
    product = draw(units, inputs)
    states = [torch.zeros_like(weight) for _ in range(descent.states)]
    settings, kind, name = DESCENTS[descent].as_tensor(draw.device), int(descent), descent.name.lower()
    theirs = weight.clone().requires_grad_()
    theirs.grad = product
    optimizer = _of_torch(descent, theirs)
    how = f"torch's {'fused' if optimizer.defaults.get('fused') else 'foreach'} optimizer"
    moved = (3 + 2 * descent.states) * weight.numel()
    copy, copy_after = draw.copy_of(moved), draw.copy_of(moved - weight.numel())

    def plain(weight: Tensor, states: list[Tensor], gradient: Tensor) -> None:
        _plain_step(weight, states, gradient, descent)

    def plain_layer(weight: Tensor, states: list[Tensor], post: Tensor, pre: Tensor) -> None:
        plain(weight, states, post.T @ pre)

    def product_and_copy() -> None:
        torch.mm(post.t(), pre, out=product)
        copy_after()

    def product_and_optimizer() -> None:
        torch.mm(post.t(), pre, out=product)
        optimizer.step()

    def into_the_momentum() -> None:
        states[0].addmm_(post.t(), pre, beta=0.9)
        weight.sub_(states[0], alpha=1e-3)

    yield Case(
        f"optimizer_steps_, {name}",
        f"{units} × {inputs}",
        lambda: kernels.optimizer_steps_([weight], states, [product], kind, settings),
        plain,
        (weight, states, product),
        copy,
        optimizer.step,
        how,
        draw.bytes(moved),
    )
    rides = descent is Descent.MOMENTUM
    yield Case(
        f"linear_steps_, {name}",
        product_text(shape),
        lambda: kernels.linear_steps_([weight], [], states, [], [post], [pre], [1.0], kind, settings),
        plain_layer,
        (weight, states, post, pre),
        product_and_copy,
        into_the_momentum if rides else product_and_optimizer,
        "addmm_ into the momentum, sub_" if rides else how,
        draw.bytes(operands(shape) + moved - 2 * weight.numel()),
        operations=2 * samples * inputs * units,
    )
