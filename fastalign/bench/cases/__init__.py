"""Every op as a row: what it is measured against, and the least that must be moved and done for it.

Plain PyTorch is what one would write; the best known alternative is what one would write who knows every function of
torch, without autograd, into tensors that are there already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from fastalign.bench.cases.case import Case, Draw
from fastalign.bench.cases.elementwise import (
    activations,
    cross_entropy,
    feedback_term,
    feedback_terms,
    modulate_input,
    other_activations,
)
from fastalign.bench.cases.optimizers import feedback_steps, momentum_steps, other_steps
from fastalign.bench.cases.products import convolutions, linear_difference, linear_forward, linear_updates
from fastalign.bench.plan import Plan

__all__ = ["Case", "all_cases"]


def all_cases(plan: Plan, dtype: torch.dtype) -> Iterator[tuple[Case, bool]]:
    """Every case of a plan, and whether torch.compile is among its rivals."""
    draw, ends = Draw(plan.device, dtype), (0, -1)
    makers: tuple[tuple[Callable[[Draw, tuple[int, ...]], Iterator[Case]], Sequence[tuple[int, ...]]], ...] = (
        (feedback_term, plan.projections),
        (feedback_terms, plan.projections),
        (modulate_input, plan.projections),
        (activations, plan.projections),
        (other_activations, plan.projections[:1]),
        (cross_entropy, plan.projections),
        (linear_forward, plan.products),
        (linear_difference, plan.products),
        (linear_updates, plan.products),
        (momentum_steps, plan.products),
        (feedback_steps, [plan.products[i] for i in ends]),
        (other_steps, [plan.products[i] for i in ends]),
        (convolutions, plan.convolutions),
    )
    seen: set[tuple[str, str]] = set()
    for make, shapes in makers:
        in_place = make in (momentum_steps, feedback_steps, other_steps)
        compiled = [i % len(shapes) for i in ends] if plan.compiles and not in_place else []
        for i, shape in enumerate(shapes):
            for case in make(draw, shape):
                if (case.op, case.shape) not in seen:
                    seen.add((case.op, case.shape))
                    yield case, i in compiled
