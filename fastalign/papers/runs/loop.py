"""The training loop: one epoch at a time, stoppable and restorable between any two batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict, cast

import torch
from torch import Tensor, nn

from fastalign.papers.data import Dataset, Splits, batches, shuffled
from fastalign.papers.runs.distributed import Processes
from fastalign.papers.runs.metrics import Metrics
from fastalign.papers.runs.mirroring import mirror
from fastalign.papers.runs.network import (
    build_network,
    freeze_filters,
    prepared,
    rule_class,
    set_first_layer_frozen,
    set_rule,
)
from fastalign.papers.runs.observers import Observer, observed
from fastalign.papers.runs.optimizers import learning_rate_at, make_optimizer
from fastalign.papers.runs.recipe import Recipe
from fastalign.papers.runs.regularisation import adversarial, limit_norms
from fastalign.papers.runs.typed import as_type
from fastalign.step import Loss, TrainStep, loss_named

EVALUATION_BATCH = 1000
# Processes agree on an interrupt only every so many batches: the question costs a message.
BATCHES_BETWEEN_AGREEMENTS = 16


@dataclass
class EpochSoFar:
    """What the batches of the unfinished epoch added up to, in this process."""

    batches: int = 0
    samples: int = 0
    loss: float = 0.0
    wrong: int = 0
    seconds: float = 0.0


class OptimizerState(TypedDict):
    """What torch's optimizers tell: the state of each parameter by its number, and their settings by group."""

    state: dict[int, dict[str, object]]
    param_groups: list[dict[str, object]]


class TrainerState(TypedDict):
    """What `Trainer.state` tells. Of the unfinished epoch it holds an `EpochSoFar` as a dictionary."""

    model: dict[str, Tensor]
    optimizer: OptimizerState
    epochs_done: int
    epoch_so_far: dict[str, Any]
    permutation_state: Tensor
    random_states: list[Tensor]
    cuda_random_states: list[Tensor]


class Trainer:
    """A network in training: the recipe, the data, and everything that changes from step to step."""

    def __init__(
        self,
        recipe: Recipe,
        rule: str,
        splits: Splits,
        *,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        frozen_filters: bool = False,
        fused_step: bool = True,
        processes: Processes | None = None,
    ) -> None:
        for_rule = recipe.for_rule(rule)
        self.recipe = recipe
        self.epochs_done = 0
        self.batch_size = batch_size or recipe.batch_size
        self.learning_rate = learning_rate or for_rule.learning_rate
        self.processes = processes or Processes.alone()
        self.device = torch.device(device)
        self.splits = prepared(recipe, splits).to(device, dtype)

        torch.manual_seed(seed)
        network = build_network(recipe, rule, self.splits.train, lambda: self.processes.share_of_updates)
        self.network = network.to(device=device, dtype=dtype)
        if frozen_filters:
            freeze_filters(self.network)
        self.model = self.processes.wrap(self.network)
        self._rule = rule
        self._needs_target = rule_class(recipe, rule).needs_target
        self._loss_name = for_rule.loss or recipe.loss
        self.loss: Loss = loss_named(self._loss_name)
        self.optimizer = make_optimizer(
            recipe.optimizer, self.network.parameters(), self.learning_rate, for_rule.weight_decay
        )
        if recipe.frozen_epochs:
            self._begin_phase()
        self._mirrors = for_rule.mirror
        if self._mirrors:
            mirror(self.network)
        self._train_step: TrainStep | None = None
        if fused_step and self.processes.count == 1:
            self._train_step = TrainStep(
                self.network, loss=self._loss_name, optimizer=self.optimizer, reduction=recipe.reduction
            )

        self.observers: dict[str, Observer] = {}
        """What they tell after each epoch is in its `Metrics.observations`, by the same names."""

        self.permutations = torch.Generator().manual_seed(seed)
        self._permutation_state = self.permutations.get_state()
        self._so_far = EpochSoFar()
        self._loss_so_far = torch.zeros((), dtype=torch.float64, device=device)
        self._wrong_so_far = torch.zeros((), dtype=torch.int64, device=device)
        if self.processes.rank > 0:
            torch.manual_seed(seed + self.processes.rank)  # Parts of one batch must not share a dropout mask.

    def train_epoch(
        self,
        interrupted: Callable[[], bool] = lambda: False,
        advance: Callable[[int], object] = lambda samples: None,
    ) -> Metrics | None:
        """Train until the end of the epoch and test; None if `interrupted` said so between two batches.

        advance: told the number of samples of each batch, of all processes.
        """
        epoch = self.epochs_done + 1
        learning_rate = learning_rate_at(epoch, self.learning_rate, self.recipe.decay_epochs, self.recipe.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self._permutation_state = self.permutations.get_state()
        order = shuffled(len(self.splits.train), self.permutations, self.device)

        so_far = self._so_far
        self._loss_so_far.fill_(so_far.loss)
        self._wrong_so_far.fill_(so_far.wrong)
        finished = True
        start = time.perf_counter()
        self.model.train()
        for batch in batches(order, self.batch_size, first=so_far.batches):
            if self._agree_to_stop(interrupted, so_far.batches):
                finished = False
                break
            self._step(batch)
            so_far.batches += 1
            so_far.samples += len(batch)
            advance(len(batch))
        so_far.loss, so_far.wrong = self._loss_so_far.item(), int(self._wrong_so_far.item())
        so_far.seconds += time.perf_counter() - start
        if not finished:
            return None

        sums = self._sums_of_all()
        metrics = Metrics(
            epoch,
            train_loss=sums["loss"] / so_far.samples,
            train_error=100 * sums["wrong"] / so_far.samples,
            test_error=error_of(self.network, self.splits.test, self.processes),
            seconds=so_far.seconds,
            lr=learning_rate,
            observations=observed(self.network, self.observers),
        )
        self.epochs_done = epoch
        if epoch == self.recipe.frozen_epochs:
            self._begin_phase()
        if self._mirrors:
            mirror(self.network)
        self._so_far = EpochSoFar()
        self._permutation_state = self.permutations.get_state()
        return metrics

    @property
    def samples_so_far(self) -> int:
        """The samples of the unfinished epoch already trained on."""
        return self._so_far.samples

    def state(self) -> TrainerState:
        """Everything that the run needs to go on with the same bits; to be called in every process."""
        cuda = self.device.type == "cuda"
        return {
            "model": self.network.state_dict(),
            "optimizer": cast(OptimizerState, self.optimizer.state_dict()),
            "epochs_done": self.epochs_done,
            "epoch_so_far": asdict(replace(self._so_far, **self._sums_of_all())),
            "permutation_state": self._permutation_state,
            "random_states": self.processes.gather(torch.get_rng_state()),
            "cuda_random_states": self.processes.gather(torch.cuda.get_rng_state(self.device)) if cuda else [],
        }

    def restore(self, state: TrainerState) -> None:
        """Go on from what `state` returned.

        Raises:
            RuntimeError, ValueError, TypeError, LookupError: another trainer returned it.
        """
        so_far: EpochSoFar = as_type(state["epoch_so_far"], EpochSoFar, "epoch_so_far")
        if min(state["epochs_done"], so_far.batches, so_far.samples, so_far.wrong) < 0:
            raise ValueError("expected numbers of epochs, batches and samples, got one below 0")
        self.epochs_done = state["epochs_done"]
        if self.recipe.frozen_epochs:
            self._begin_phase()
        self.network.load_state_dict(state["model"])
        self._check_optimizer(state["optimizer"])
        self.optimizer.load_state_dict({**state["optimizer"]})
        self._so_far = so_far
        if not self.processes.is_first:
            self._so_far.loss, self._so_far.wrong = 0.0, 0
        self.permutations.set_state(state["permutation_state"])
        self._permutation_state = state["permutation_state"]
        torch.set_rng_state(state["random_states"][self.processes.rank])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random_states"][self.processes.rank], self.device)

    def _check_optimizer(self, saved: OptimizerState) -> None:
        """Refuse what torch takes and only a step fails at: another optimizer's options, tensors of other shapes."""
        for group, ours in zip(saved["param_groups"], self.optimizer.param_groups, strict=True):
            for name, value in group.items():
                if name not in ("params", "lr") and value != ours.get(name, value):
                    raise ValueError(f"optimizer: {name} is {value!r}, expected {ours[name]!r}")
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for number, kept in saved["state"].items():
            for name, value in kept.items():
                shapes = (parameters[number].shape, ())
                if value is not None and not (isinstance(value, Tensor) and value.shape in shapes):
                    raise ValueError(f"optimizer: {name} of parameter {number} is not a tensor of its shape")

    def _begin_phase(self) -> None:
        """Freeze the first layer below backpropagation, or let it learn and the rule begin, as epochs_done asks for."""
        frozen = self.epochs_done < self.recipe.frozen_epochs
        set_first_layer_frozen(self.network, frozen)
        if frozen:
            self.network.set_rule("bp")
        else:
            set_rule(self.network, self.recipe, self._rule, lambda: self.processes.share_of_updates)

    def _step(self, batch: Tensor) -> None:
        """One update, from this process's part of the batch."""
        part = self.processes.shard(batch)
        images, labels = self.splits.train.images[part], self.splits.train.labels[part]
        if self.recipe.max_norms:
            limit_norms(self.network, self.recipe.max_norms)
        if self.recipe.adversarial_epsilon:
            images = adversarial(self.network, images, labels, self.loss, self.recipe.adversarial_epsilon)
        if self._train_step is not None:
            loss = self._train_step.step(images, labels)
            assert self._train_step.outputs is not None
            self._note(
                loss * len(labels) if self.recipe.reduction == "mean" else loss, self._train_step.outputs, labels
            )
            return
        self.processes.share_of_updates = len(part) / len(batch) if self.recipe.reduction == "mean" else 1.0
        outputs = self.model(images, target=labels) if self._needs_target else self.model(images)
        loss = self.loss(outputs, labels)
        self._note(loss.detach(), outputs.detach(), labels)
        (loss / len(labels) if self.recipe.reduction == "mean" else loss).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _note(self, loss: Tensor, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch's summed loss and its number of wrong outputs to the epoch's."""
        self._loss_so_far += loss
        self._wrong_so_far += (outputs.argmax(1) != labels).sum()

    def _agree_to_stop(self, interrupted: Callable[[], bool], batch: int) -> bool:
        if self.processes.count > 1 and batch % BATCHES_BETWEEN_AGREEMENTS:
            return False
        return self.processes.any(interrupted())

    def _sums_of_all(self) -> dict[str, Any]:
        sums = self.processes.sum(torch.tensor([self._so_far.loss, self._so_far.wrong], dtype=torch.float64))
        return {"loss": sums[0].item(), "wrong": int(sums[1].item())}


@torch.no_grad()
def error_of(network: nn.Module, dataset: Dataset, processes: Processes) -> float:
    """The percentage of the samples whose largest output is not their label's."""
    network.eval()
    wrong = torch.zeros((), dtype=torch.int64)
    images, labels = processes.shard(dataset.images), processes.shard(dataset.labels)
    for inputs, targets in zip(images.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True):
        wrong += (network(inputs).argmax(1) != targets).sum().cpu()
    return 100 * int(processes.sum(wrong)) / len(dataset)
