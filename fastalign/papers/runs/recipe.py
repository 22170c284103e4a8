"""What an experiment is made of, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from functools import reduce
from typing import Any

from fastalign.errors import UserError
from fastalign.papers.runs.metrics import Metrics


@dataclass(frozen=True)
class Convolution:
    """A convolution of square filters with stride 1, its activation, dropout, and max-pooling, in dfa-torch's order."""

    filters: int
    kernel: int
    padding: int = 0
    pool: int = 2
    pool_stride: int = 2
    dropout: float = 0.0


@dataclass(frozen=True)
class Architecture:
    """Convolutions, then hidden layers of these widths, then the output layer of one unit for each class."""

    convolutions: tuple[Convolution, ...] = ()
    hidden: tuple[int, ...] = ()
    activation: str = "tanh"
    bias: bool = True
    input_dropout: float = 0.0
    hidden_dropout: float = 0.0


@dataclass(frozen=True)
class RuleRecipe:
    """How one learning rule trains in an experiment.

    initialisation: of the weights: "zero", "uniform-fan-in", "he-uniform". With "zero" the fixed matrices are drawn
        while the weights still are uniform-fan-in, so that feedback copied from the weights is not zero.
    options: arguments of the rule's class in `fastalign.rules`, `error_scale` among them.
    activation, loss: in place of the experiment's.
    rule: the rule's own name, where the experiment has several variants of it under names of theirs.
    upper_rule: the rule of all layers but the first, in place of this one.
    weight_decay: of the optimizer; None for the optimizer's own.
    normalise: divide the activity of a hidden dense layer by its root mean square, sample by sample.
    mirror: let PEPITA's F mirror the weights, at first and after each epoch (`fastalign.papers.runs.mirroring`).
    """

    learning_rate: float
    initialisation: str
    options: Mapping[str, Any] = field(default_factory=dict)
    activation: str | None = None
    loss: str | None = None
    rule: str | None = None
    upper_rule: str | None = None
    weight_decay: float | None = None
    normalise: bool = False
    mirror: bool = False


@dataclass(frozen=True)
class Recipe:
    """An experiment: the data, the network, and how each rule trains it.

    reduction: "sum" or "mean" of the loss over the batch; it sets the scale of the output layer's updates.
    decay_epochs: the epochs after which the learning rate is multiplied by `decay`.
    stop_at_train_error: stop after the first epoch whose training error, in percent, is not above this.
    stop_by_running_mean: compare with it m ← 0.75 m + 0.25 · training error, from m = 100 % on, as dfa-torch does.
    whiten: give the images ZCA-whitened (`fastalign.papers.data.whitening`).
    adversarial_epsilon, max_norms: see `fastalign.papers.runs.regularisation`.
    frozen_epochs: for so many epochs the first layer stays as it was drawn, and the others learn by backpropagation.
    observe: note angles and norms after each epoch unless told otherwise (`fastalign.papers.runs.observers`).
    """

    name: str
    source: str
    dataset: str
    architecture: Architecture
    loss: str
    reduction: str
    optimizer: str
    batch_size: int
    epochs: int
    rules: Mapping[str, RuleRecipe]
    decay_epochs: tuple[int, ...] = ()
    decay: float = 0.1
    stop_at_train_error: float | None = None
    whiten: bool = False
    adversarial_epsilon: float = 0.0
    max_norms: tuple[float, float] | None = None
    frozen_epochs: int = 0
    observe: bool = False
    stop_by_running_mean: bool = False

    def for_rule(self, rule: str) -> RuleRecipe:
        """How `rule` trains here. Raises UserError for a rule this experiment has no recipe for."""
        if rule not in self.rules:
            raise UserError(f"rule is {rule!r}, expected one of those of {self.name}: {', '.join(self.rules)}")
        return self.rules[rule]

    def is_good_enough(self, history: Sequence[Metrics]) -> bool:
        """Whether the last of these epochs brought the training error down to where training stops."""
        if not history or self.stop_at_train_error is None:
            return False
        error = history[-1].train_error
        if self.stop_by_running_mean:
            error = reduce(lambda mean, metrics: 0.75 * mean + 0.25 * metrics.train_error, history, 100.0)
        return error <= self.stop_at_train_error

    def stopped_early(self, history: Sequence[Metrics]) -> bool:
        """Whether a run of these epochs ended before the last one for that reason."""
        return len(history) < self.epochs and self.is_good_enough(history)

    def as_json(self, rule: str) -> dict[str, Any]:
        """The recipe with the one rule's part, as it reads back from JSON."""
        values = asdict(self) | {"rules": {rule: asdict(self.for_rule(rule))}}
        return dict(json.loads(json.dumps(values)))

    def is_saved_as(self, saved: Any, rule: str) -> bool:
        """Whether this is `as_json(rule)`, maybe of a time when fields were missing that have their defaults here."""
        return _completed(saved, replace(self, rules={rule: self.for_rule(rule)})) == self.as_json(rule)


def _completed(saved: Any, like: Any) -> Any:
    """What JSON has, and the defaults of the fields that it does not have; `like` tells what has which fields."""
    if is_dataclass(like) and isinstance(saved, dict):
        missing = {f.name: f.default for f in fields(like) if f.name not in saved and f.default is not MISSING}
        return missing | {name: _completed(value, getattr(like, name, None)) for name, value in saved.items()}
    if isinstance(like, Mapping) and isinstance(saved, dict):
        return {name: _completed(value, like.get(name)) for name, value in saved.items()}
    if isinstance(like, tuple) and isinstance(saved, list) and len(like) == len(saved):
        return [_completed(value, part) for value, part in zip(saved, like, strict=True)]
    return saved
