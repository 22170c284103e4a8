"""Train an experiment with a regulariser of Nøkland's, note a function of your own after each epoch, read it all back.

python examples/own_experiment.py [FOLDER]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

import fastalign.nn as nn
from fastalign.analysis import activities, fit_plateau, plots
from fastalign.papers import data, read_metrics
from fastalign.papers.experiments import experiment
from fastalign.papers.runs.progress import Progress
from fastalign.papers.runs.run import train

# A recipe is data: `fastalign.papers.runs.recipe` says what there is. This one bounds norms of weights before a step.
recipe = replace(experiment("digits/mlp"), name="digits/mlp-bounded", max_norms=(2.0, 2.0))
images = data.load("digits").flatten().to("cpu", torch.float32).test.images


def saturated(network: nn.Sequential) -> dict[int, float]:
    """By hidden layer, the percentage of activities beyond ±0.9."""
    _, *hidden, _ = activities(network, images).values()
    return {layer: 100 * (h.abs() > 0.9).double().mean().item() for layer, h in enumerate(hidden, start=1)}


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own")
train(recipe, "dfa", {"epochs": 10}, out=folder, progress=Progress(), observers={"saturated units (%)": saturated})

epochs = read_metrics(folder)
slowness = fit_plateau([100 - epoch.test_error for epoch in epochs]).slowness
print(f"test error {epochs[-1].test_error:.2f} %, slowness {slowness:.3f} epochs")
(folder / "saturated.png").write_bytes(plots.observations({"DFA": epochs}, "saturated units (%)", recipe.name))
