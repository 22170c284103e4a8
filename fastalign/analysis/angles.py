"""Angles between what a network has and what backpropagation would have in its place: weights, and their updates."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastalign.analysis.networks import evaluated, stages_of, weights_of
from fastalign.engine.plan import ActivationLink, Stage
from fastalign.engine.sequential import check_learns_by_rule
from fastalign.nn import Sequential
from fastalign.rules import FA


def angle(a: Tensor, b: Tensor) -> float:
    """The angle between vec(A) and vec(B) in degrees, 0 to 180: arccos(⟨A, B⟩ / (‖A‖ ‖B‖)).

    NaN where one of them is zero or not finite: it has no direction.

    Raises:
        ValueError: they differ in shape.
    """
    if a.shape != b.shape:
        raise ValueError(f"b: expected the shape of a, {tuple(a.shape)}, got {tuple(b.shape)}")
    a, b = (matrix.detach().flatten().double() for matrix in (a, b))
    a, b = a / a.norm(), b / b.norm()
    # NOTE: the arccosine loses half of the digits near 0° and 180°; this does not (Kahan).
    return math.degrees(2 * math.atan2((a - b).norm().item(), (a + b).norm().item()))


def alignment_angles(network: Sequential) -> dict[int, float]:
    """By layer l, the angle in degrees between the fixed matrix that brings the error to h_l and the weights' own way.

    The way back from the output is (W_L ⋯ W_{l+1})ᵀ, activations left out. PEPITA: l = 0, and F beside it, (D, C);
    random weights are at 90°, those learnt with x + F e above, with x − F e below (Dellaferrera & Kreiman 2022, §4).
    DFA, DRTP, IFA: B_l beside it, (H_l, C). FA: B_{l+1} beside W_{l+1} alone.

    Not in the result: layers without a fixed matrix, and those whose way to the output leads through anything but
    linear layers, their activations and dropout, and flattening. Shapes of F and B are those of the network.

    Raises:
        TypeError: the network is no fastalign.nn.Sequential.
    """
    check_learns_by_rule(network)
    stages = stages_of(network)
    fixed = (network.projection if _only_reshapes(stages[0]) else None, *network.feedback)
    found: dict[int, float] = {}
    way = _linear_weight(stages[-1])
    for number in reversed(range(len(fixed))):
        matrix, above = fixed[number], stages[number + 1].native
        through_one_layer = number > 0 and isinstance(network.layer_rules[number - 1], FA)
        beside = way if not through_one_layer else None if above is None else above.weight.T
        if matrix is not None and beside is not None and beside.T.shape == matrix.shape:
            found[number] = angle(matrix, beside.T)
        weight = _linear_weight(stages[number])
        way = way @ weight if way is not None and weight is not None and _only_reshapes(stages[number]) else None
    return dict(sorted(found.items()))


def gradient_angles(
    network: Sequential, x: Tensor, loss_fn: Callable[[Tensor], Tensor], target: Tensor | None = None
) -> dict[int, float]:
    """By layer l, the angle in degrees between the rule's update ΔW_l and the gradient ∂loss/∂W_l of backpropagation.

    Below 90° a small step down ΔW_l lowers the loss. That feedback alignment brings the two together is what Nøkland
    2016 shows (theorem 1, for the directions of h_l). In evaluation mode, on one batch; nothing of the network changes.

    Args:
        network: with a rule.
        x: the batch, (N, ...).
        loss_fn: takes the network's output and returns a scalar loss, reduced over the batch as in training: rules that
            are not linear in e (PEPITA) depend on its scale.
        target: for rules that need it (DRTP).

    Returns:
        The angles; without layers that are frozen or that the rule leaves as they are.

    Raises:
        TypeError: the network is no fastalign.nn.Sequential.
        ValueError: as the network's forward.
    """
    check_learns_by_rule(network)
    weights = {number: [p for p in matrices if p.requires_grad] for number, matrices in weights_of(network).items()}
    wanted = [p for matrices in weights.values() for p in matrices]
    with evaluated(network), torch.enable_grad():
        updates, gradients = (
            dict(zip(wanted, torch.autograd.grad(loss_fn(output), wanted, allow_unused=True), strict=True))
            for output in (network(x.detach(), target), network.with_backpropagation(x.detach()))
        )
    found = {}
    for number, matrices in weights.items():
        moved = [p for p in matrices if updates[p] is not None and gradients[p] is not None]
        if moved:
            found[number] = angle(*(torch.cat([of[p].flatten() for p in moved]) for of in (updates, gradients)))
    return found


def _linear_weight(stage: Stage) -> Tensor | None:
    return stage.native.weight.detach() if isinstance(stage.native, torch.nn.Linear) else None


def _only_reshapes(stage: Stage) -> bool:
    """Whether nothing but activations, dropout and flattening follows the layer."""
    return all(isinstance(link, ActivationLink) or isinstance(link.module, torch.nn.Flatten) for link in stage.links)
