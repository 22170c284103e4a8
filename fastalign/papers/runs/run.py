"""A run: a recipe trained in a folder, stopped and resumed at will."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from fastalign.analysis import plots
from fastalign.bench import provenance
from fastalign.bench.atomic import write_atomically
from fastalign.bench.quiet import Pause
from fastalign.errors import MissingPackageError, RunError
from fastalign.papers import data
from fastalign.papers.runs.checkpoint import SavedRun, load_checkpoint, save_checkpoint
from fastalign.papers.runs.distributed import Processes
from fastalign.papers.runs.folder import Config, RunFolder
from fastalign.papers.runs.loop import Trainer
from fastalign.papers.runs.metrics import Metrics
from fastalign.papers.runs.observers import Observer, observed, standard_observers
from fastalign.papers.runs.progress import Progress
from fastalign.papers.runs.recipe import Recipe
from fastalign.papers.runs.settings import DTYPES, Settings, new_settings, resumed_settings

SECONDS_BETWEEN_LOOKS = 0.3


class Interrupted(Exception):  # noqa: N818 (not an error)
    """Ctrl-C came; what was done is saved."""


def train(
    recipe: Recipe,
    rule: str,
    given: Mapping[str, Any],
    *,
    out: Path,
    data_directory: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress,
    observers: Mapping[str, Observer] | None = None,
) -> list[Metrics]:
    """Train until the recipe's end or the number of epochs given, and return the metrics of every epoch.

    given: settings by name (epochs, batch_size, lr, seed, device, dtype, freeze_filters, observe, fused_step); what is
    missing or None is the recipe's, or the run's where one is resumed. observers: functions of the network by name,
    each of which tells a value for each layer after each epoch, for `Metrics.observations`, beside those of `observe`;
    they are not saved, a run that is resumed is given them again. After a kill at any moment, `resume` gives the same
    bits as a run that nothing stopped. Under torchrun every process calls this; the first one writes.

    Raises:
        Interrupted: Ctrl-C came; what was done is saved.
        UserError: settings, data or folder do not allow the run; what the folder holds is as it was.
        TypeError: an observer tells something else than numbers by layer.
        ValueError: one has the name of what is observed already.
    """
    processes = Processes.from_environment()
    folder = RunFolder(out)
    settings = new_settings(recipe, rule, given, processes.count)
    splits = data.load(recipe.dataset, data_directory)
    with processes.connected():
        history, finished = _train_in_folder(
            recipe, settings, given, splits, folder, resume, processes, progress, observers or {}
        )
    if not finished:
        raise Interrupted
    return history


def _train_in_folder(
    recipe: Recipe,
    settings: Settings,
    given: Mapping[str, Any],
    splits: data.Splits,
    folder: RunFolder,
    resume: bool,
    processes: Processes,
    progress: Progress,
    observers: Mapping[str, Observer],
) -> tuple[list[Metrics], bool]:
    """Begin or resume the run; the metrics of every epoch, and whether it came to its end."""
    with ExitStack() as stack:
        processes.on_first(lambda: stack.enter_context(folder.locked()))
        saved = processes.on_first(lambda: folder.saved_config(resume))
        if saved:
            settings = resumed_settings(recipe, settings.rule, given, processes.count, saved.settings, saved.recipe)
        config = _config(recipe, settings, splits, saved)
        trainer = _make_trainer(recipe, settings, splits, processes)
        if settings.observe:
            trainer.observers.update(standard_observers(trainer.splits.train, trainer.loss, recipe.reduction))
        if same := trainer.observers.keys() & observers.keys():
            raise ValueError(f"observers: {', '.join(sorted(same))} is noted already, expected other names")
        observed(trainer.network, observers)  # what cannot be noted is known before anything is trained
        trainer.observers.update(observers)
        history = _restore(trainer, config, folder) if saved else []
        processes.on_first(lambda: folder.save_config(config))
        finished = _train_on(trainer, config, history, folder, progress)
        if history:
            processes.on_first(lambda: draw(folder.curves, f"{recipe.name}, {settings.rule.upper()}", {"": history}))
        return history, finished


def _config(recipe: Recipe, settings: Settings, splits: data.Splits, saved: Config | None) -> Config:
    checksum = splits.checksum()
    if saved and saved.data_checksum != checksum:
        raise RunError(f"the data of {recipe.dataset} are not those this run began with")
    made_by = saved.made_by if saved else provenance.describe()
    return Config(settings, recipe.as_json(settings.rule), checksum, made_by)


def _make_trainer(recipe: Recipe, settings: Settings, splits: data.Splits, processes: Processes) -> Trainer:
    device = torch.device(settings.device)
    if device.type == "cuda" and processes.count > 1:
        device = torch.device("cuda", processes.local_rank)
        torch.cuda.set_device(device)  # which NCCL and all that names no device go by
    return Trainer(
        recipe,
        settings.rule,
        splits,
        batch_size=settings.batch_size,
        learning_rate=settings.lr,
        seed=settings.seed,
        device=device,
        dtype=DTYPES[settings.dtype],
        frozen_filters=settings.freeze_filters,
        fused_step=settings.fused_step,
        processes=processes,
    )


def _restore(trainer: Trainer, config: Config, folder: RunFolder) -> list[Metrics]:
    """Bring the trainer to where the run's last checkpoint was; the epochs it had completed."""
    metrics_checksum = None
    if folder.checkpoint.exists():
        state = load_checkpoint(folder.checkpoint)
        if "run" in state:
            _check_same_run(state["run"], config, folder)
            metrics_checksum = state["run"].metrics_checksum
        try:
            trainer.restore(state)
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            reason = str(error).partition("\n")[0]
            raise RunError(f"{folder.checkpoint} is not a checkpoint of this run: {reason}") from error
    elif len(folder.metrics.read()) > 1:
        # The first checkpoint follows the first line.
        raise RunError(f"{folder.checkpoint} is missing, though {folder.metrics.path} tells of later epochs")
    return trainer.processes.on_first(lambda: folder.metrics.cut_after(trainer.epochs_done, metrics_checksum))


def _check_same_run(saved: SavedRun, config: Config, folder: RunFolder) -> None:
    """Refuse a checkpoint and a configuration of different runs; a run may have got more epochs since."""
    had, has = (asdict(of.settings) | {"data_checksum": of.data_checksum} for of in (saved, config))
    for name, value in has.items():
        if name != "epochs" and had[name] != value:
            raise RunError(
                f"{folder.checkpoint} was saved with {name} {had[name]}, but {folder.config} says {value}: they are "
                "not of the same run"
            )


def _train_on(trainer: Trainer, config: Config, history: list[Metrics], folder: RunFolder, progress: Progress) -> bool:
    """Train the epochs that are missing, each saved when it is done; False if Ctrl-C came first."""
    processes, epochs = trainer.processes, config.settings.epochs

    def save() -> None:
        state = trainer.state()
        processes.on_first(lambda: save_checkpoint(folder.checkpoint, state, saved_run()))

    def saved_run() -> SavedRun:
        return SavedRun(config.settings, config.data_checksum, folder.metrics.checksum(trainer.epochs_done))

    samples = len(trainer.splits.train)
    progress.start(epochs, samples, trainer.epochs_done * samples + trainer.samples_so_far)
    try:
        with ctrl_c_noted(processes) as interrupted:
            while trainer.epochs_done < epochs and not trainer.recipe.is_good_enough(history):
                _wait_for_benchmark(processes, interrupted, progress)
                metrics = trainer.train_epoch(interrupted, progress.advance)
                if metrics is None:
                    save()
                    return False
                history.append(metrics)
                # The metrics come first: a line too many is cut when the run is resumed, a missing one would be lost.
                processes.on_first(lambda: folder.metrics.append(history[-1]))
                save()
                progress.epoch(metrics)
    finally:
        progress.close()
    return True


def _wait_for_benchmark(processes: Processes, interrupted: Callable[[], bool], progress: Progress) -> None:
    """Pause as long as a benchmark measures where any of the processes runs, or until Ctrl-C."""
    pause = Pause(progress.waits)
    while processes.any(pause.is_due()) and not processes.any(interrupted()):
        time.sleep(SECONDS_BETWEEN_LOOKS)


@contextmanager
def ctrl_c_noted(processes: Processes) -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C only makes the function that is given return True; a second one ends at once.

    Under torchrun, which passes on the signal that the terminal sent already, the second is the first one again.
    """
    noted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        if noted and processes.count == 1:
            raise KeyboardInterrupt
        noted = True

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, previous)


def draw(path: Path, title: str, curves: Mapping[str, list[Metrics]]) -> None:
    """Write the learning curves, or say on standard error what is missing for them."""
    try:
        image = plots.learning_curves(curves, title)
    except MissingPackageError as error:
        print(f"no {path.name}: {error}", file=sys.stderr)
    else:
        write_atomically(path, image)
