"""Kernels and training steps on a CUDA device, each against plain PyTorch, torch.compile, the best known and the floor.

    python benchmarks/gpu.py [--seconds 150] [--rows FILE]

Variants are interleaved; the device's cache is flushed before each run, which also lets the host run ahead, so that a
time is the device's. The floor is the least that must be done: the bytes that must move at the speed of a copy, or the
bare matrix products by the library. A row is written as soon as it is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign.nn as nn

Run = Callable[[], object]
kernels = torch.ops.fastalign
TANH = 1
DTYPES = (torch.float32, torch.bfloat16)


@dataclass
class Case:
    """One row: what is measured, and against what. Bytes and operations are what must be moved and done."""

    op: str
    shape: str
    dtype: torch.dtype
    fastalign: Run
    plain: Callable[..., object]
    arguments: tuple[Any, ...] = ()
    floor: Run | None = None
    best: tuple[str, Run] | None = None
    bytes: int = 0
    operations: int = 0
    compiled: bool = False
    others: dict[str, Run] = field(default_factory=dict)


def draw(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


def copy_of(size: int) -> Run:
    """A copy that moves so many bytes, half of them read and half written."""
    source = torch.empty(max(size // 2, 1), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def feedback_terms() -> Iterator[Case]:
    def plain(e: Tensor, b: Tensor, a: Tensor) -> Tensor:
        return (e @ b.T) * (1 - torch.tanh(a) ** 2)

    for dtype in DTYPES:
        for samples, units, classes in ((256, 1024, 10), (4096, 4096, 10), (4096, 4096, 100), (4096, 4096, 1000)):
            e, b, a = draw(dtype, samples, classes), draw(dtype, units, classes), draw(dtype, samples, units)
            moved = (2 * a.numel() + e.numel() + b.numel()) * a.element_size()
            yield Case(
                "feedback_term",
                f"{samples} × {units}, C = {classes}",
                dtype,
                lambda e=e, b=b, a=a: kernels.feedback_term(e, b, a, TANH, False, 0.0, None),
                plain,
                (e, b, a),
                copy_of(moved),
                ("bare mm(e, Bᵀ)", lambda e=e, b=b: e @ b.T),
                moved,
                2 * samples * units * classes,
                compiled=samples == 4096 and classes < 1000,
            )


def updates() -> Iterator[Case]:
    def plain_dfa(e: Tensor, b: Tensor, a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        delta = (e @ b.T) * (1 - torch.tanh(a) ** 2)
        return delta.T @ x, delta.sum(0)

    def plain_pepita(h: Tensor, h_mod: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        difference = (h - h_mod) / h.shape[0]
        return difference.T @ x, difference.sum(0)

    def plain_sgd(w: Tensor, v: Tensor, delta: Tensor, x: Tensor) -> Tensor:
        v.mul_(0.9).add_(delta.T @ x)
        return w.sub_(v, alpha=0.01)

    for dtype in DTYPES:
        for samples, inputs, units in ((64, 784, 1024), (256, 1024, 1024), (256, 4096, 4096), (4096, 4096, 4096)):
            e, b = draw(dtype, samples, 10), draw(dtype, units, 10)
            a, h_mod, x = draw(dtype, samples, units), draw(dtype, samples, units), draw(dtype, samples, inputs)
            w, v, into = draw(dtype, units, inputs), draw(dtype, units, inputs), draw(dtype, units, inputs)
            shape, operations = f"{samples} × {inputs} × {units}", 2 * samples * inputs * units
            product = lambda a=a, x=x: a.T @ x  # noqa: E731
            add = ("addmm_", lambda a=a, x=x, into=into: into.addmm_(a.T, x, beta=0.9))
            compiled = inputs == 1024
            yield Case(
                "dfa_linear_update",
                shape,
                dtype,
                lambda e=e, b=b, a=a, x=x: kernels.dfa_linear_update(e, b, a, x, TANH, False),
                plain_dfa,
                (e, b, a, x),
                product,
                add,
                operations=operations,
                compiled=compiled,
            )
            yield Case(
                "pepita_linear_update",
                shape,
                dtype,
                lambda a=a, h_mod=h_mod, x=x: kernels.pepita_linear_update(a, h_mod, x),
                plain_pepita,
                (a, h_mod, x),
                product,
                add,
                operations=operations,
                compiled=compiled,
            )
            yield Case(
                "linear_sgd_step_",
                shape,
                dtype,
                lambda w=w, v=v, a=a, x=x: kernels.linear_sgd_step_(w, None, v, None, a, x, 1e-3, 0.9, 0.0, 1e-3),
                plain_sgd,
                (w, v, a, x),
                product,
                (
                    "addmm_ and a pass",
                    lambda w=w, v=v, a=a, x=x: (v.addmm_(a.T, x, beta=0.9), w.sub_(v, alpha=1e-3)),
                ),
                operations=operations,
                compiled=compiled,
            )


def convolutions() -> Iterator[Case]:
    shapes = ((128, 1, 28, 5, 32), (128, 3, 32, 5, 32), (128, 96, 15, 5, 128))
    for dtype in DTYPES:
        for samples, channels, size, kernel, outputs in shapes:
            places = size - kernel + 1
            h, h_mod = draw(dtype, samples, outputs, places, places), draw(dtype, samples, outputs, places, places)
            x = draw(dtype, samples, channels, size, size)
            weight = (outputs, channels, kernel, kernel)

            def plain(h: Tensor, h_mod: Tensor, x: Tensor, weight: tuple[int, ...] = weight) -> tuple[Tensor, Tensor]:
                difference = h - h_mod
                return torch.nn.grad.conv2d_weight(x, weight, difference), difference.sum((0, 2, 3))

            bare = lambda h=h, x=x, weight=weight: torch.nn.grad.conv2d_weight(x, weight, h)  # noqa: E731
            yield Case(
                "pepita_conv2d_update",
                f"{samples} × {channels} × {size}² → {outputs}, {kernel}×{kernel}",
                dtype,
                lambda h=h, h_mod=h_mod, x=x, k=kernel: kernels.pepita_conv2d_update(
                    h, h_mod, x, [k, k], [1, 1], [0, 0], [1, 1], 1
                ),
                plain,
                (h, h_mod, x),
                bare,
                ("conv2d_weight, difference given", bare),
                operations=2 * samples * outputs * places**2 * channels * kernel**2,
            )


def forwards() -> Iterator[Case]:
    def plain_forward(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.tanh(F.linear(x, w, b))

    def plain_difference(d: Tensor, w: Tensor, a: Tensor) -> Tensor:
        return torch.tanh(a + d @ w.T) - torch.tanh(a)

    def plain_modulation(x: Tensor, e: Tensor, f: Tensor) -> Tensor:
        return x + e @ f.T

    for dtype in DTYPES:
        for samples, inputs, units in ((64, 784, 1024), (256, 1024, 1024), (4096, 4096, 4096)):
            x, w, b = draw(dtype, samples, inputs), draw(dtype, units, inputs), draw(dtype, units)
            yield Case(
                "linear_forward",
                f"{samples} × {inputs} × {units}",
                dtype,
                lambda x=x, w=w, b=b: kernels.linear_forward(x, w, b, TANH, 0.0, None, False),
                plain_forward,
                (x, w, b),
                lambda x=x, w=w: x @ w.T,
                ("addmm with the library's epilogue", lambda x=x, w=w, b=b: torch._addmm_activation(b, x, w.T)),
                operations=2 * samples * inputs * units,
                compiled=inputs == 1024,
            )
        samples, units = 4096, 4096
        e, f, x = draw(dtype, samples, 10), draw(dtype, units, 10), draw(dtype, samples, units)
        moved = 2 * x.numel() * x.element_size()
        for op, run, plain, values in (
            ("modulate_input", lambda x=x, e=e, f=f: kernels.modulate_input(x, e, f, 1.0), plain_modulation, (x, e, f)),
            (
                "linear_difference",
                lambda x=x, e=e, f=f: kernels.linear_difference(e, f, x, TANH, 0.0, None),
                plain_difference,
                (e, f, x),
            ),
            ("activation_forward", lambda x=x: kernels.activation_forward(x, TANH, 0.0, None), torch.tanh, (x,)),
        ):
            yield Case(op, f"{samples} × {units}, C = 10", dtype, run, plain, values, copy_of(moved), bytes=moved)


def network(module: Any, rule: str | None, hidden: int, depth: int) -> torch.nn.Module:
    layers: list[torch.nn.Module] = []
    for i in range(depth):
        layers += [module.Linear(784 if i == 0 else hidden, hidden), module.Tanh()]
    settings = {} if rule is None else {"rule": rule}
    return module.Sequential(*layers, module.Linear(hidden, 10), **settings).cuda()


def captured_step(net: torch.nn.Module, samples: int = 64) -> Run:
    """A training step with SGD and momentum, recorded in a graph."""
    x, y = torch.rand(samples, 784, device="cuda"), torch.randint(10, (samples,), device="cuda")
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def steps() -> Iterator[Case]:
    for hidden, depth in ((1024, 1), (800, 4), (240, 100)):
        backpropagation = captured_step(network(torch.nn, None, hidden, depth))
        for rule in ("bp", "dfa", "pepita"):
            yield Case(
                f"training step, {rule}, in a CUDA graph",
                f"784-{hidden}{f'×{depth}' if depth > 1 else ''}-10, batch 64",
                torch.float32,
                captured_step(network(nn, rule, hidden, depth)),
                backpropagation,
                best=("torch's BP in a CUDA graph", backpropagation),
            )


def measure(variants: dict[str, Run], seconds: float = 0.25) -> dict[str, list[float]]:
    """Microseconds of each variant, several times."""
    cache = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    for run in variants.values():
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in variants}
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(events[next(iter(events))]) < 5:
        for name, run in variants.items():
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            cache.zero_()
            start.record()
            run()
            stop.record()
            events[name].append((start, stop))
        torch.cuda.synchronize()
    return {name: [a.elapsed_time(b) * 1e3 for a, b in pairs] for name, pairs in events.items()}


def row_of(case: Case) -> dict[str, Any]:
    """Measures a case."""
    variants: dict[str, Run] = {"fastalign": case.fastalign, "plain": lambda: case.plain(*case.arguments)}
    if case.floor is not None:
        variants["floor"] = case.floor
    if case.best is not None:
        variants["best known"] = case.best[1]
    if case.compiled:
        torch._dynamo.reset()
        compiled = torch.compile(case.plain, dynamic=False)
        variants["torch.compile"] = lambda: compiled(*case.arguments)
    times = measure(variants)
    medians = {name: statistics.median(values) for name, values in times.items()}
    own = medians["fastalign"]
    tenths = statistics.quantiles(times["fastalign"], n=10)
    return {
        "op": case.op,
        "shape": case.shape,
        "dtype": str(case.dtype).removeprefix("torch."),
        "median_us": own,
        "p10_us": tenths[0],
        "p90_us": tenths[-1],
        "gb_per_s": case.bytes / own / 1e3 or None,
        "tflop_per_s": case.operations / own / 1e6 or None,
        "best_known": case.best and case.best[0],
        **{f"ratio_to_{name.replace(' ', '_')}": own / m for name, m in medians.items() if name != "fastalign"},
    }


def text_of(row: dict[str, Any]) -> str:
    """A row for people."""

    def figure(name: str, digits: int = 2) -> str:
        value = row.get(name)
        return f"{value:8.{digits}f}" if value else " " * 8

    ratios = "".join(figure(f"ratio_to_{name}") for name in ("floor", "plain", "torch.compile", "best_known"))
    return (
        f"{row['op']:36} {row['shape']:28} {row['dtype']:9}{figure('median_us', 1)} "
        f"({row['p10_us']:.1f}–{row['p90_us']:.1f}){figure('gb_per_s', 0)}{figure('tflop_per_s', 1)}{ratios}"
    )


def main() -> None:
    """Measures until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--rows", type=Path, help="a file that each row is added to, as a line of JSON")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    torch.manual_seed(0)
    print("op, shape, dtype | µs (p10–p90) | GB/s | TFLOP/s | × floor | × plain | × torch.compile | × best known")
    for group in (feedback_terms, updates, convolutions, forwards, steps):
        for case in group():
            if time.monotonic() > end:
                print("the time is over")
                return
            row = row_of(case)
            print(text_of(row), flush=True)
            if options.rows is not None:
                with options.rows.open("a") as file:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
