"""A plan of everything, at shapes that take no time."""

from __future__ import annotations

import torch

from fastalign.bench.plan import Network, Plan

TINY = Plan(
    processes=1,
    seconds=0.0,
    step_seconds=0.0,
    rounds=2,
    compiles=False,
    projections=((4, 6, 3), (5, 8, 3)),
    products=((4, 6, 8), (4, 8, 6)),
    convolutions=((2, 1, 8, 3, 4, 0),),
    dtypes=(torch.float32, torch.bfloat16),
    networks=(
        Network("6-8-3", (6,), (8,), classes=3, samples=4),
        Network("6-8-3 bf16", (6,), (8,), classes=3, samples=4, dtype=torch.bfloat16),
        Network("6-8³-3", (6,), (8,) * 3, classes=3, samples=4),
        Network("6-8²-3", (6,), (8, 8), classes=3, samples=4, activation="relu", bias=False),
        Network("1×12² → 2", (1, 12, 12), (2,), classes=3, samples=4, activation="relu", bias=False),
    ),
    depths=(2, 4),
    middle=Network("6-8²-3", (6,), (8, 8), classes=3, samples=4),
    axes=(("depth", (1, 2)), ("width", (4, 8)), ("batch", (2, 4)), ("classes", (2, 3))),
)
