"""Forward products, second passes and updates of linear layers and convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from fastalign.bench.cases.case import TANH, Case, Draw, operands, plain_term_from_output, product_text
from fastalign.bench.measure import Run
from fastalign.ops.schemas import kernels

aten = torch.ops.aten


def linear_forward(draw: Draw, shape: tuple[int, ...]) -> Iterator[Case]:
    """h = f(x Wᵀ + b)."""
    samples, inputs, units = shape
    x, w, b, out = draw(samples, inputs), draw(units, inputs), draw(units), draw(samples, units)
    yield Case(
        "linear_forward",
        product_text(shape),
        lambda: kernels.linear_forward(x, w, b, TANH, 0.0, None, False),
        lambda x, w, b: torch.tanh(F.linear(x, w, b)),
        (x, w, b),
        lambda: torch.mm(x, w.t(), out=out),
        lambda: torch.addmm(b, x, w.t(), out=out).tanh_(),
        "addmm and tanh_",
        draw.bytes(operands(shape)),
        operations=2 * samples * inputs * units,
    )


def linear_difference(draw: Draw, shape: tuple[int, ...]) -> Iterator[Case]:
    """Δh = f(a + Δh_{l−1} Wᵀ) − f(a)."""
    samples, inputs, units = shape
    d, w, a, out = draw(samples, inputs), draw(units, inputs), draw(samples, units), draw(samples, units)
    h = torch.tanh(a)
    yield Case(
        "linear_difference",
        product_text(shape),
        lambda: kernels.linear_difference(d, w, a, TANH, 0.0, None),
        lambda d, w, a: torch.tanh(a + d @ w.T) - torch.tanh(a),
        (d, w, a),
        lambda: torch.mm(d, w.t(), out=out),
        lambda: torch.addmm(a, d, w.t(), out=out).tanh_().sub_(h),
        "addmm, tanh_ and sub_, h given",
        draw.bytes(operands(shape)),
        operations=2 * samples * inputs * units,
    )


def linear_updates(draw: Draw, shape: tuple[int, ...]) -> Iterator[Case]:
    """ΔW and Δb, of δ given, of one layer and of four; of DFA; of PEPITA.

    The product into new memory is a part, since that is where an op's result is.
    """
    samples, inputs, units = shape
    post, pre, h_mod = draw(samples, units), draw(samples, inputs), draw(samples, units)
    e, b, h = draw(samples, 10), draw(units, 10), torch.tanh(post)
    weight, bias, delta = draw(units, inputs), draw(units), torch.empty_like(post)

    four = [torch.empty_like(weight) for _ in range(4)]

    def product(out: Tensor = weight) -> Tensor:
        return torch.mm(post.t(), pre, out=out)

    def four_products() -> None:
        for out in four:
            product(out)

    def given(out: Tensor = weight) -> None:
        product(out)
        torch.sum(post, 0, out=bias)

    def four_given() -> None:
        for out in four:
            given(out)

    def dfa() -> None:
        torch.mm(e, b.t(), out=delta)
        aten.tanh_backward.grad_input(delta, h, grad_input=delta)
        torch.mm(delta.t(), pre, out=weight)
        torch.sum(delta, 0, out=bias)

    def pepita() -> None:
        torch.sub(post, h_mod, out=delta)
        torch.addmm(weight, delta.t(), pre, beta=0, alpha=1 / samples, out=weight)
        torch.sum(delta, 0, out=bias).mul_(1 / samples)

    def plain_dfa(e: Tensor, b: Tensor, h: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
        delta = plain_term_from_output(e, b, h)
        return delta.T @ pre, delta.sum(0)

    def plain_pepita(h: Tensor, h_mod: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
        difference = (h - h_mod) / h.shape[0]
        return difference.T @ pre, difference.sum(0)

    def plain(post: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
        return post.T @ pre, post.sum(0)

    def plain_four(post: Tensor, pre: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [plain(post, pre) for _ in range(4)]

    text, into = product_text(shape), "mm and sum into what is there"
    operations, moved = 2 * samples * inputs * units, draw.bytes(operands(shape))
    product_and_sum: dict[str, Run] = {
        "product into new memory": lambda: torch.mm(post.t(), pre),
        "sum over samples": lambda: torch.sum(post, 0, out=bias),
    }
    rows: tuple[tuple[str, Run, Callable[..., object], tuple[Tensor, ...], Run, dict[str, Run]], ...] = (
        ("linear_update", lambda: kernels.linear_update(post, pre, 1.0, True), plain, (post, pre), given, {}),
        (
            "dfa_linear_update",
            lambda: kernels.dfa_linear_update(e, b, h, pre, TANH, True),
            plain_dfa,
            (e, b, h, pre),
            dfa,
            {"δ": lambda: kernels.feedback_term(e, b, h, TANH, True, 0.0, None)},
        ),
        (
            "pepita_linear_update",
            lambda: kernels.pepita_linear_update(post, h_mod, pre),
            plain_pepita,
            (post, h_mod, pre),
            pepita,
            {"h − h_mod": lambda: torch.sub(post, h_mod, out=delta)},
        ),
    )
    for op, run, written, arguments, best, term in rows:
        parts = {**term, **product_and_sum}
        yield Case(op, text, run, written, arguments, product, best, into, moved, operations=operations, parts=parts)
    yield Case(
        "linear_updates",
        f"4 × ({text})",
        lambda: kernels.linear_updates([post] * 4, [pre] * 4, [1.0] * 4, True),
        plain_four,
        (post, pre),
        four_products,
        four_given,
        into,
        4 * moved,
        operations=4 * operations,
    )


def convolutions(draw: Draw, shape: tuple[int, ...]) -> Iterator[Case]:
    """ΔK and Δb, of δ given, of DFA, of PEPITA; and the pooling of a difference over such maps."""
    samples, channels, size, kernel, filters, padding = shape
    places = size + 2 * padding - kernel + 1
    map_shape, weight = (samples, filters, places, places), (filters, channels, kernel, kernel)
    h, h_mod, x = torch.tanh(draw(*map_shape)), draw(*map_shape), draw(samples, channels, size, size)
    e, b, difference = draw(samples, 10), draw(filters * places**2, 10), torch.empty_like(h)
    window = ([kernel] * 2, [1, 1], [padding] * 2, [1, 1], 1)
    stand_in = draw(1).expand(weight)

    def both(post: Tensor) -> object:
        return aten.convolution_backward(
            post, x, stand_in, [filters], [1, 1], [padding] * 2, [1, 1], False, [0, 0], 1, [False, True, True]
        )

    def plain(post: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return conv2d_weight(x, weight, post, padding=padding), post.sum((0, 2, 3))

    def plain_dfa(e: Tensor, b: Tensor, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return plain((e @ b.T).reshape(h.shape) * (1 - h * h), x)

    def dfa() -> object:
        torch.mm(e, b.t(), out=difference.view(samples, -1))
        return both(aten.tanh_backward.grad_input(difference, h, grad_input=difference))

    def plain_pepita(h: Tensor, h_mod: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return plain((h - h_mod) / (samples * places**2), x)

    def by_position() -> Tensor:
        update = torch.zeros(weight, device=draw.device, dtype=draw.dtype)
        for i in range(places):
            for j in range(places):
                patch = x[:, :, i : i + kernel, j : j + kernel].reshape(samples, -1)
                update += ((h[:, :, i, j] - h_mod[:, :, i, j]).T @ patch).reshape(weight)
        return update / (samples * places**2)

    text = f"{samples} × {channels} × {size}² → {filters}, {kernel}×{kernel}"
    bare = lambda: conv2d_weight(x, weight, h, padding=padding)  # noqa: E731
    operations = 2 * samples * filters * places**2 * channels * kernel**2
    moved_by_product = draw.bytes(x.numel() + h.numel() + stand_in.numel())
    one_call = "convolution_backward, in place"
    product_and_sum: dict[str, Run] = {"product": bare, "sum over samples": lambda: torch.sum(h, (0, 2, 3))}
    yield Case(
        "conv2d_update",
        text,
        lambda: kernels.conv2d_update(h, x, *window, 1.0, True),
        plain,
        (h, x),
        bare,
        lambda: both(h),
        one_call,
        moved_by_product,
        operations=operations,
        parts=product_and_sum,
    )
    yield Case(
        "dfa_conv2d_update",
        text,
        lambda: kernels.dfa_conv2d_update(e, b, h, x, TANH, True, *window),
        plain_dfa,
        (e, b, h, x),
        bare,
        dfa,
        one_call,
        moved_by_product,
        operations=operations,
        parts={"δ": lambda: kernels.feedback_term(e, b, h.view(samples, -1), TANH, True, 0.0, None), **product_and_sum},
    )
    yield Case(
        "pepita_conv2d_update",
        text,
        lambda: kernels.pepita_conv2d_update(h, h_mod, x, *window),
        plain_pepita,
        (h, h_mod, x),
        bare,
        lambda: both(torch.sub(h, h_mod, out=difference)),
        one_call,
        moved_by_product,
        operations=operations,
        beside={"position by position": by_position} if padding == 0 and samples <= 100 else {},
        parts={"h − h_mod": lambda: torch.sub(h, h_mod, out=difference), **product_and_sum},
    )
    pooling = ([2, 2], [2, 2], [0, 0], [1, 1], False)
    activity = torch.tanh(h)
    pooled, maxima = aten.max_pool2d_with_indices(activity, *pooling)
    pooling_text = f"{samples} × {filters} × {places}², 2×2"

    def back_in_place() -> Tensor:
        aten.max_pool2d_with_indices_backward.grad_input(pooled, activity, *pooling, maxima, grad_input=difference)
        return aten.tanh_backward.grad_input(difference, activity, grad_input=difference)

    yield Case(
        "max_pool2d_forward",
        pooling_text,
        lambda: kernels.max_pool2d_forward(activity, *pooling),
        lambda h: F.max_pool2d(h, 2),
        (activity,),
        draw.copy_of(h.numel() + pooled.numel()),
        bytes=draw.bytes(h.numel() + pooled.numel()),
    )
    yield Case(
        "max_pool2d_backward",
        pooling_text,
        lambda: kernels.max_pool2d_backward(pooled, activity, activity, TANH, True, 0.0, None, *pooling),
        lambda s, h, i: aten.max_pool2d_with_indices_backward(s, h, *pooling, i) * (1 - h * h),
        (pooled, activity, maxima),
        draw.copy_of(2 * h.numel() + pooled.numel()),
        back_in_place,
        "max_pool2d_with_indices_backward and tanh_backward, in place",
        bytes=draw.bytes(2 * h.numel() + pooled.numel()),
    )
    moved = 2 * h.numel() + h.numel() // 4
    yield Case(
        "max_pool2d_difference",
        pooling_text,
        lambda: kernels.max_pool2d_difference(h, h_mod, *pooling),
        lambda h, d: F.max_pool2d(h + d, 2) - F.max_pool2d(h, 2),
        (h, h_mod),
        draw.copy_of(moved),
        bytes=draw.bytes(moved),
    )
