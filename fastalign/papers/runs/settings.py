"""The settings of a run: what the user gave, what the recipe says, and what a resumed run has already."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from fastalign.errors import RunError, UserError
from fastalign.papers.runs.recipe import Recipe

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Settings:
    """Everything that decides the bits of a run and of its metrics, beside the recipe and the data."""

    experiment: str
    rule: str
    epochs: int
    batch_size: int
    lr: float
    seed: int
    device: str
    dtype: str
    freeze_filters: bool
    processes: int
    observe: bool = False
    fused_step: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not 0 < self.lr < math.inf:
            raise UserError(f"lr is {self.lr}, expected a positive number")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}, expected 0 to 2^63 − 1")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype is {self.dtype!r}, expected one of {', '.join(DTYPES)}")
        if self.device != "cpu" and not self.device.startswith("cuda"):
            raise UserError(f"device is {self.device!r}, expected cpu or cuda")

    def check_device(self) -> None:
        """Raise UserError unless this machine has the device."""
        if self.device != "cpu" and not torch.cuda.is_available():
            raise UserError(f"device is {self.device!r}, but this machine has no CUDA device that torch can use")


def new_settings(recipe: Recipe, rule: str, given: Mapping[str, Any], processes: int) -> Settings:
    """The settings of a new run; what is not given (or None) is the recipe's.

    Raises:
        UserError: a setting that cannot be, or filters to freeze where there are none.
    """
    defaults = {
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "lr": recipe.for_rule(rule).learning_rate,
        "seed": 0,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "dtype": "float32",
        "freeze_filters": False,
        "observe": recipe.observe,
        "fused_step": True,
    }
    chosen = defaults | {name: value for name, value in given.items() if value is not None}
    settings = Settings(experiment=recipe.name, rule=rule, processes=processes, **chosen)
    settings.check_device()
    if settings.freeze_filters and not recipe.architecture.convolutions:
        raise UserError(f"there are no filters to freeze in {recipe.name}")
    if recipe.frozen_epochs and processes > 1:
        raise UserError(f"{recipe.name} freezes layers for a time, which needs a run of one process, not {processes}")
    return settings


def resumed_settings(
    recipe: Recipe,
    rule: str,
    given: Mapping[str, Any],
    processes: int,
    settings: Settings,
    saved_recipe: Mapping[str, Any],
) -> Settings:
    """The settings of a run to resume: the saved ones, with more epochs if they are given.

    Raises:
        RunError: a setting that is given differs from the run's, or the recipe is another by now.
        UserError: this machine does not have the run's device.
    """
    asked = {"experiment": recipe.name, "rule": rule, "processes": processes, **given}
    for name, value in asked.items():
        had = getattr(settings, name)
        if value is None or value == had or (name == "epochs" and value > had):
            continue
        raise RunError(f"{name} is {value}, but that of the run to resume is {had}: keep it, or give another --out")
    if not recipe.is_saved_as(saved_recipe, rule):
        raise RunError(f"the recipe of {recipe.name} has changed since this run began: give another --out")
    settings.check_device()
    return replace(settings, epochs=max(settings.epochs, given.get("epochs") or 0))
