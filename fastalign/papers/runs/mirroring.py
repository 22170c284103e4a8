"""Weight mirroring: PEPITA's F learns from noise to be the weights' own way back, with the sign they learn."""

from __future__ import annotations

import torch
from torch import Tensor

from fastalign.analysis import stages_of
from fastalign.nn import Sequential
from fastalign.rules import PEPITA

NOISE_SAMPLES = 6400
NOISE_BATCH = 640


@torch.no_grad()
def mirror(network: Sequential) -> None:
    """F ← ∓ c M_1 ⋯ M_L, M_l = Σ ξ f(W_l ξ)ᵀ over noise ξ ~ N(0, 1), about W_lᵀ; c keeps the deviation of F.

    − for x + F e, whose weights turn away from F. Each layer needs only its own input and output (Akrout et al. 2019;
    for PEPITA Srinivasan et al. 2023, who add up small steps; here each call estimates M_l anew).

    Args:
        network: of linear layers, under PEPITA.
    """
    projection, rule = network.projection, network.rule
    assert projection is not None
    assert isinstance(rule, PEPITA)
    way: Tensor | None = None
    for stage in stages_of(network)[1:]:
        assert stage.native is not None
        mirrored = torch.zeros_like(stage.native.weight.T)
        for _ in range(NOISE_SAMPLES // NOISE_BATCH):
            noise = torch.randn(NOISE_BATCH, len(mirrored), dtype=mirrored.dtype, device=mirrored.device)
            mirrored += noise.T @ stage.native(noise)
        way = mirrored if way is None else way @ mirrored
    assert way is not None
    projection.copy_(way * (-rule.sign * projection.std() / way.std()))
