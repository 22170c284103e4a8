"""When a recipe ends a run before its last epoch."""

from __future__ import annotations

from dataclasses import replace

from fastalign.papers.experiments import experiment
from fastalign.papers.runs.metrics import Metrics

PLAIN = experiment("nokland/mnist-2x800-tanh")
BY_MEAN = replace(PLAIN, stop_by_running_mean=True)


def epochs_of(*train_errors: float) -> list[Metrics]:
    return [Metrics(i + 1, 0.1, error, 2.0, 2.0, 0.1) for i, error in enumerate(train_errors)]


def test_a_run_stops_after_the_first_epoch_below_the_limit_but_for_the_last_one() -> None:
    assert not PLAIN.stopped_early([])
    assert not PLAIN.stopped_early(epochs_of(0.02))
    assert PLAIN.stopped_early(epochs_of(0.02, 0.01))
    assert not replace(PLAIN, stop_at_train_error=None).stopped_early(epochs_of(0.0))
    assert not PLAIN.stopped_early(epochs_of(*[0.0] * 300))


def test_a_running_mean_is_that_of_the_published_code() -> None:
    """dfa-torch, Main.lua: train_err_mean = 1, then .75·train_err_mean + .25·ErrTrain; stops at <= 0.0001."""
    errors = [2.0, *[0.03] * 30, *[0.0] * 20]
    mean, last = 1.0, None
    for epoch, error in enumerate(errors, start=1):
        mean = 0.75 * mean + 0.25 * error / 100
        if mean <= 0.0001 and last is None:
            last = epoch
    assert last is not None
    stops = [BY_MEAN.is_good_enough(epochs_of(*errors[:epoch])) for epoch in range(len(errors) + 1)]
    assert stops == [False] * last + [True] * (len(stops) - last)
    assert last > errors.index(0.0) + 1  # later than by the error of the epoch itself


def test_runs_saved_before_the_mean_could_be_asked_for_are_those_of_recipes_without() -> None:
    saved = PLAIN.as_json("dfa")
    assert saved.pop("stop_by_running_mean") is False
    assert PLAIN.is_saved_as(saved, "dfa")
    assert not BY_MEAN.is_saved_as(saved, "dfa")
