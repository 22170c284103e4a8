"""The network of a run, as its last checkpoint has it."""

from __future__ import annotations

import torch

from fastalign.errors import RunError
from fastalign.nn import Sequential
from fastalign.papers.data import Splits
from fastalign.papers.runs.checkpoint import load_checkpoint
from fastalign.papers.runs.folder import RunFolder
from fastalign.papers.runs.network import build_network, prepared
from fastalign.papers.runs.recipe import Recipe


def trained_network(recipe: Recipe, rule: str, folder: RunFolder, splits: Splits) -> tuple[Sequential, Splits]:
    """The network with its fixed matrices, on the CPU in float32, and the data as it takes them.

    Raises:
        RunError: there is no checkpoint, or it is damaged or of another network.
    """
    splits = prepared(recipe, splits).to("cpu", torch.float32)
    network = build_network(recipe, rule, splits.train)
    try:
        network.load_state_dict(load_checkpoint(folder.checkpoint)["model"])
    except RuntimeError as error:
        raise RunError(f"{folder.checkpoint} is not a checkpoint of {recipe.name} under {rule}") from error
    return network, splits
