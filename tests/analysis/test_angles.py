"""Angles with known answers, and what the papers say of those in a network that learns."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastalign import analysis, convert, nn, rules
from fastalign.analysis import alignment_angles, angle, gradient_angles
from fastalign.papers import data
from fastalign.papers.experiments.digits import MLP
from fastalign.papers.runs.loop import Trainer

RULES = ("bp", "fa", "dfa", "ifa", "drtp", "pepita")


def mlp(rule: str | rules.Rule, *after: torch.nn.Module) -> Any:
    torch.manual_seed(0)
    layers = [nn.Linear(12, 20, activation="tanh"), *after, nn.Linear(20, 16, bias=False), nn.Tanh(), nn.Linear(16, 5)]
    return nn.Sequential(*layers, rule=rule)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(30, 12), torch.randint(5, (30,))


def angles_to_gradients(network: nn.Sequential, x: Tensor, y: Tensor) -> dict[int, float]:
    return gradient_angles(network, x, lambda outputs: F.cross_entropy(outputs, y), target=y)


def test_known_angles() -> None:
    a = torch.randn(7, 3)
    assert angle(a, a) == 0
    assert angle(a, 1e-20 * a) == pytest.approx(0, abs=1e-5)
    assert angle(a, -a) == 180
    assert angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, -3.0])) == pytest.approx(90)
    assert angle(torch.tensor([1.0, 0.0]), torch.tensor([5.0, 5.0])) == pytest.approx(45)
    tiny = torch.tensor([1.0, 1e-9], dtype=torch.float64)  # whose cosine rounds to 1
    assert angle(tiny, torch.tensor([1.0, 0.0], dtype=torch.float64)) == pytest.approx(math.degrees(1e-9))
    for without_direction in (0.0, math.inf, math.nan):
        assert math.isnan(angle(a, torch.full_like(a, without_direction)))
    with pytest.raises(ValueError, match=r"b: expected the shape of a, \(7, 3\), got \(3, 7\)"):
        angle(a, a.T)


def test_backpropagation_is_at_0_degrees_to_itself_and_has_no_fixed_matrix(batch: tuple[Tensor, Tensor]) -> None:
    network = mlp("bp")
    assert angles_to_gradients(network, *batch) == {1: 0, 2: 0, 3: 0}
    assert alignment_angles(network) == {}


def test_the_way_to_the_output_is_the_product_of_the_weights() -> None:
    network = mlp("dfa")
    first, second, _, third = network
    expected = {1: (third.weight @ second.weight).T, 2: third.weight.T}
    feedback = dict(enumerate(network.feedback, 1))
    assert alignment_angles(network) == pytest.approx(
        {layer: angle(feedback[layer], way) for layer, way in expected.items()}
    )
    with torch.no_grad():
        feedback[2].copy_(-third.weight.T)
    assert alignment_angles(network)[2] == 180
    network.set_rule("ifa")
    assert set(alignment_angles(network)) == {1}
    network.set_rule("pepita")
    with torch.no_grad():
        network.projection.copy_((third.weight @ second.weight @ first.weight).T)
    assert alignment_angles(network) == pytest.approx({0: 0}, abs=1e-5)


def test_normalisation_ends_the_way_to_the_output() -> None:
    network = mlp("dfa", nn.Linear(20, 20), nn.BatchNorm1d(20))
    assert set(alignment_angles(network)) == {2, 3}  # B_2 enters after the normalisation.


def test_feedback_alignment_starts_at_0_degrees_from_copied_weights(batch: tuple[Tensor, Tensor]) -> None:
    network = mlp("fa")
    assert alignment_angles(network) == {1: 0, 2: 0}
    assert angles_to_gradients(network, *batch) == pytest.approx({1: 0, 2: 0, 3: 0}, abs=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_asking_leaves_everything_as_it_is(rule: str, batch: tuple[Tensor, Tensor]) -> None:
    network = mlp(rule, nn.Dropout(0.5))
    before = copy.deepcopy(network.state_dict())
    random_state = torch.get_rng_state()
    first = angles_to_gradients(network, *batch)
    assert first == angles_to_gradients(network, *batch)  # without dropout
    assert set(first) == {1, 2, 3}
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_convolutions_blocks_and_layers_that_stay_as_they_are() -> None:
    torch.manual_seed(0)
    block: Any = nn.Block(torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.BatchNorm2d(4)))
    layers = (nn.Conv2d(1, 4, 3, activation="relu"), block, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5))
    network: Any = nn.Sequential(*layers, rule="dfa", input_shape=(1, 8, 8))
    x, y = torch.randn(20, 1, 8, 8), torch.randint(5, (20,))
    statistics = block.module[1].running_mean.clone()
    angles = angles_to_gradients(network, x, y)
    assert angles[3] == pytest.approx(0, abs=1e-5)
    assert 60 < angles[1] < 120
    assert 60 < angles[2] < 120
    assert torch.equal(block.module[1].running_mean, statistics)
    # From the block's output on there are linear layers only; from the convolution's there are not.
    assert alignment_angles(network) == {2: angle(network.feedback[1], layers[-1].weight.T)}
    layers[0].requires_grad_(False)
    assert set(angles_to_gradients(network, x, y)) == {2, 3}


@pytest.mark.parametrize(("sign", "above"), [(1, True), (-1, False)])
def test_pepita_turns_the_weights_away_from_f_or_towards_it(sign: int, above: bool) -> None:
    trainer = Trainer(MLP, "pepita", data.load("digits"))
    trainer.network.set_rule(rules.PEPITA(sign=sign))
    start = alignment_angles(trainer.network)[0]
    for _ in range(5):
        trainer.train_epoch()
    end = alignment_angles(trainer.network)[0]
    assert start == pytest.approx(90, abs=5)
    assert (end > 95) if above else (end < 85)


def test_direct_feedback_alignment_aligns() -> None:
    trainer = Trainer(MLP, "dfa", data.load("digits"))
    batch = trainer.splits.train.images[:200], trainer.splits.train.labels[:200]
    before = angles_to_gradients(trainer.network, *batch)
    for _ in range(5):
        trainer.train_epoch()
    after = angles_to_gradients(trainer.network, *batch)
    for layer in (1, 2):
        assert before[layer] == pytest.approx(90, abs=10)
        assert after[layer] < 75
        assert alignment_angles(trainer.network)[layer] < 80


def test_a_plain_network_is_refused_with_the_way_to_one_that_is_measured(batch: tuple[Tensor, Tensor]) -> None:
    plain: Any = torch.nn.Sequential(torch.nn.Linear(12, 20), torch.nn.Tanh(), torch.nn.Linear(20, 5))
    x, y = batch
    for measure in (alignment_angles, lambda network: angles_to_gradients(network, x, y)):
        with pytest.raises(TypeError, match=r"network: .*got torch\.nn\..*\.Sequential: fastalign\.convert\(network"):
            measure(plain)
        assert measure(convert(plain, rule="dfa"))
    assert analysis.weight_norms(plain).keys() == {1, 2}  # for which a chain is enough
    assert [tuple(h.shape) for h in analysis.activities(plain, x).values()] == [(30, 12), (30, 20), (30, 5)]
    other: Any = torch.nn.Bilinear(2, 2, 2)
    for of_a_chain in (analysis.weights_of, analysis.weight_norms, lambda network: analysis.activities(network, x)):
        with pytest.raises(TypeError, match=r"got torch\.nn\..*\.Bilinear: fastalign\.convert\(network"):
            of_a_chain(other)
