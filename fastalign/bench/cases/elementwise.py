"""Feedback terms, modulated inputs, activations and the loss: bound by bytes, or by few products."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fastalign.bench.cases.case import TANH, Case, Draw, plain_term, plain_term_from_output
from fastalign.ops import reference
from fastalign.ops.activations import Activation
from fastalign.ops.schemas import kernels

aten = torch.ops.aten


def feedback_term(draw: Draw, shape: tuple[int, ...]) -> Iterator[Case]:
    """δ = (e Bᵀ) ⊙ f′, from a as `dfa_projection` has it by default, and from h as networks keep it."""
    samples, units, classes = shape
    e, b, a = draw(samples, classes), draw(units, classes), draw(samples, units)
    h, out, scratch = torch.tanh(a), torch.empty_like(a), torch.empty_like(a)

    def in_place(kept: Tensor, given_output: bool) -> Tensor:
        torch.mm(e, b.t(), out=out)
        f = kept if given_output else torch.tanh(kept, out=scratch)
        return aten.tanh_backward.grad_input(out, f, grad_input=out)

    moved = 2 * a.numel() + e.numel() + b.numel()
    for given_output, kept, plain in ((False, a, plain_term), (True, h, plain_term_from_output)):
        yield Case(
            "feedback_term, h given" if given_output else "feedback_term",
            f"{samples} × {units}, C = {classes}",
            partial(kernels.feedback_term, e, b, kept, TANH, given_output, 0.0, None),
            plain,
            (e, b, kept),
            draw.copy_of(moved),
            partial(in_place, kept, given_output),
            "mm and tanh_backward, in place",
            draw.bytes(moved),
            arithmetic=2 * samples * units * classes,
            parts={
                "bare product": lambda: torch.mm(e, b.t(), out=out),
                "derivative": partial(kernels.activation_backward, scratch, kept, TANH, given_output, 0.0, None),
            },
        )


def feedback_terms(draw: Draw, shape: tuple[int, ...]) -> Iterator[Case]:
    """The δ of four layers."""
    samples, units, classes = shape
    e, h = draw(samples, classes), [torch.tanh(draw(samples, units)) for _ in range(4)]
    b = [draw(units, classes) for _ in range(4)]
    out = [torch.empty_like(k) for k in h]

    def in_place() -> None:
        for matrix, kept, delta in zip(b, h, out, strict=True):
            torch.mm(e, matrix.t(), out=delta)
            aten.tanh_backward.grad_input(delta, kept, grad_input=delta)

    def plain(e: Tensor, b: list[Tensor], h: list[Tensor]) -> list[Tensor]:
        return [plain_term_from_output(e, *layer) for layer in zip(b, h, strict=True)]

    moved = e.numel() + 4 * (2 * h[0].numel() + b[0].numel())
    yield Case(
        "feedback_terms",
        f"4 × ({samples} × {units}), C = {classes}",
        lambda: kernels.feedback_terms(e, b, h, TANH, True),
        plain,
        (e, b, h),
        draw.copy_of(moved),
        in_place,
        "mm and tanh_backward, in place",
        draw.bytes(moved),
        arithmetic=8 * samples * units * classes,
    )


def modulate_input(draw: Draw, shape: tuple[int, ...]) -> Iterator[Case]:
    """x + F e, F as networks hold it: the numbers of a class in one piece."""
    samples, units, classes = shape
    x, e, f = draw(samples, units), draw(samples, classes), draw(classes, units).t()
    out, moved = torch.empty_like(x), 2 * x.numel() + e.numel() + f.numel()
    yield Case(
        "modulate_input",
        f"{samples} × {units}, C = {classes}",
        lambda: kernels.modulate_input(x, e, f, 1.0),
        lambda x, e, f: x + e @ f.T,
        (x, e, f),
        draw.copy_of(moved),
        lambda: torch.addmm(x, e, f.t(), out=out),
        "addmm",
        draw.bytes(moved),
        arithmetic=2 * samples * units * classes,
    )


def activations(draw: Draw, shape: tuple[int, ...]) -> Iterator[Case]:
    """f, f′ and the difference of f, for tanh."""
    return _activations(draw, shape, Activation.TANH)


def other_activations(draw: Draw, shape: tuple[int, ...]) -> Iterator[Case]:
    """The same for the other activations."""
    for f in list(Activation)[1:]:
        if f is not Activation.TANH:
            yield from _activations(draw, shape, f)


def _activations(draw: Draw, shape: tuple[int, ...], f: Activation) -> Iterator[Case]:
    samples, units, _ = shape
    a, s, text = draw(samples, units), draw(samples, units), f"{samples} × {units}"
    out, delta, elements = torch.empty_like(a), torch.empty_like(a), a.numel()
    name, is_tanh = f.name.lower(), f is Activation.TANH
    into = {Activation.TANH: torch.tanh, Activation.LOGISTIC: torch.sigmoid}.get(f)

    def tanh_backward() -> Tensor:
        return aten.tanh_backward.grad_input(s, torch.tanh(a, out=out), grad_input=delta)

    yield Case(
        f"activation_forward, {name}",
        text,
        lambda: kernels.activation_forward(a, int(f), 0.0, None),
        lambda a: reference.activate(a, f),
        (a,),
        draw.copy_of(2 * elements),
        None if into is None else lambda: into(a, out=out),
        f"torch's {name} into what is there",
        draw.bytes(2 * elements),
    )
    yield Case(
        f"activation_backward, {name}",
        text,
        lambda: kernels.activation_backward(s, a, int(f), False, 0.0, None),
        lambda s, a: s * reference._derivative(a, f),
        (s, a),
        draw.copy_of(3 * elements),
        tanh_backward if is_tanh else None,
        "tanh and tanh_backward, in place",
        draw.bytes(3 * elements),
    )
    yield Case(
        f"activation_difference, {name}",
        text,
        lambda: kernels.activation_difference(a, s, int(f), 0.0, None),
        lambda a, s: reference.activate(a + s, f) - reference.activate(a, f),
        (a, s),
        draw.copy_of(3 * elements),
        bytes=draw.bytes(3 * elements),
    )


def cross_entropy(draw: Draw, shape: tuple[int, ...]) -> Iterator[Case]:
    """The loss and ŷ − y."""
    samples, _, classes = shape
    outputs, labels = draw(samples, classes), torch.randint(classes, (samples,), device=draw.device)
    rows = torch.arange(samples, device=draw.device)

    def plain(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        log_probabilities = torch.log_softmax(outputs, 1)
        one_hot = F.one_hot(labels, outputs.shape[1])
        return F.nll_loss(log_probabilities, labels), (log_probabilities.exp() - one_hot) / len(labels)

    def in_place() -> tuple[Tensor, Tensor]:
        log_probabilities = torch.log_softmax(outputs, 1)
        loss = F.nll_loss(log_probabilities, labels)
        error = log_probabilities.exp_()
        error[rows, labels] -= 1
        return loss, error.mul_(1 / samples)

    yield Case(
        "cross_entropy",
        f"{samples}, C = {classes}",
        lambda: kernels.cross_entropy(outputs, labels, True),
        plain,
        (outputs, labels),
        draw.copy_of(2 * outputs.numel()),
        in_place,
        "log_softmax, in place",
        draw.bytes(2 * outputs.numel()),
    )
