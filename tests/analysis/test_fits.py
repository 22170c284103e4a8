"""Fits to samples whose distribution or slowness is known, and t-SNE of clouds that lie apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from fastalign.analysis import activities, fit_distributions, fit_plateau, tsne, weight_norms, weights_of
from fastalign.papers import data
from fastalign.papers.experiments.digits import CONV
from fastalign.papers.runs.loop import Trainer


@pytest.mark.parametrize("slowness", [0.026, 0.5, 4.2])
def test_the_slowness_of_a_plateau_is_found(slowness: float) -> None:
    t = np.arange(1, 101)
    accuracies = 55 * t / (slowness + t)
    accuracies[-1] = 55  # The highest point stands for the limit.
    fit = fit_plateau(accuracies.tolist(), epochs=100)
    expected = scipy.optimize.curve_fit(lambda t, s: 55 * t / (s + t), t, accuracies, p0=[1.0])[0][0]
    assert fit.slowness == pytest.approx(expected, rel=1e-4)
    assert fit.slowness == pytest.approx(slowness, rel=0.02)
    assert fit.highest == accuracies[-1]
    assert fit.accuracy(fit.slowness) == pytest.approx(fit.highest / 2)


def test_only_the_first_sixty_epochs_are_fitted() -> None:
    accuracies = [50.0, 60.0, 65.0] * 20
    assert fit_plateau([*accuracies, 99.0]) == fit_plateau(accuracies)


@pytest.mark.parametrize("accuracies", [[], [50.0], [50.0, math.nan], [0.0, 1.0]])
def test_what_is_no_learning_curve_is_refused(accuracies: list[float]) -> None:
    with pytest.raises(ValueError, match="accuracies: expected"):
        fit_plateau(accuracies)


@pytest.mark.parametrize(("degrees", "location", "scale"), [(2.5, 0.01, 0.02), (6.0, -1.0, 3.0)])
def test_students_t_is_recovered(degrees: float, location: float, scale: float) -> None:
    samples = scipy.stats.t(degrees, location, scale).rvs(40_000, random_state=1)
    fit = fit_distributions(torch.from_numpy(samples).reshape(200, 200))
    assert fit.favours_student
    assert fit.degrees_of_freedom == pytest.approx(degrees, rel=0.1)
    assert fit.scale == pytest.approx(scale, rel=0.03)
    assert fit.location == pytest.approx(location, abs=0.03 * scale)
    assert fit.normal_log_likelihood == pytest.approx(
        scipy.stats.norm(*scipy.stats.norm.fit(samples)).logpdf(samples).mean()
    )
    density = scipy.stats.t(fit.degrees_of_freedom, fit.location, fit.scale)
    assert fit.student_log_likelihood == pytest.approx(density.logpdf(samples).mean())
    assert fit.student_log_likelihood >= scipy.stats.t(degrees, location, scale).logpdf(samples).mean()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_normal_sample_is_as_likely_under_a_t_that_is_all_but_normal(seed: int) -> None:
    samples = torch.randn(20_000, generator=torch.Generator().manual_seed(seed)) * 0.3 + 2
    fit = fit_distributions(samples)
    assert fit.degrees_of_freedom > 50
    assert fit.student_log_likelihood == pytest.approx(fit.normal_log_likelihood, abs=2e-4)
    assert (fit.mean, fit.deviation) == pytest.approx((samples.mean().item(), samples.std(correction=0).item()))


def test_a_uniform_sample_does_not_favour_students_t() -> None:
    assert not fit_distributions(torch.rand(5000)).favours_student


@pytest.mark.parametrize("weights", [torch.zeros(5), torch.tensor([1.0]), torch.tensor([0.0, math.nan])])
def test_what_has_no_distribution_is_refused(weights: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="weights: expected"):
        fit_distributions(weights)


def test_tsne_keeps_clouds_apart() -> None:
    torch.manual_seed(0)
    labels = torch.arange(90) % 3
    points = tsne(20 * torch.eye(3, 50)[labels] + torch.randn(90, 50))
    centres = torch.stack([points[labels == number].mean(0) for number in range(3)])
    nearest = torch.cdist(points, centres).argmin(1)
    assert torch.equal(nearest, labels)
    with pytest.raises(ValueError, match="perplexity: expected less than the number of samples, 90, got 90"):
        tsne(points, perplexity=90)
    with pytest.raises(ValueError, match="activity: expected finite numbers"):
        tsne(torch.full((90, 2), math.inf))


def test_activities_and_weights_of_a_convolutional_network() -> None:
    trainer = Trainer(CONV, "dfa", data.load("digits"))
    x = trainer.splits.test.images[:7]
    found = activities(trainer.network, x)
    assert [tuple(h.shape[1:]) for h in found.values()] == [(1, 8, 8), (144,), (64,), (10,)]
    torch.testing.assert_close(found[3], trainer.network(x))
    weights = weights_of(trainer.network)
    assert [matrices[0].shape for matrices in weights.values()] == [(16, 1, 3, 3), (64, 144), (10, 64)]
    assert weight_norms(trainer.network)[1] == pytest.approx(weights[1][0].norm().item())
