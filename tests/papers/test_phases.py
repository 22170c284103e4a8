"""A first layer that stays frozen for some epochs, and what else a recipe says of a rule's variant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fastalign import rules
from fastalign.analysis import activities, alignment_angles
from fastalign.nn import Sequential
from fastalign.papers import data
from fastalign.papers.data import Splits
from fastalign.papers.experiments.digits import MLP
from fastalign.papers.runs.loop import Trainer
from fastalign.papers.runs.recipe import Recipe, RuleRecipe

FROZEN = replace(
    MLP,
    optimizer="rmsprop",
    frozen_epochs=2,
    rules={
        "bp": RuleRecipe(1e-3, "uniform-fan-in"),
        "dfa": RuleRecipe(1e-3, "uniform-fan-in"),
        "dfa-below-bp": RuleRecipe(1e-3, "uniform-fan-in", rule="dfa", upper_rule="bp"),
    },
)


def weights_of(network: Sequential) -> list[torch.Tensor]:
    return [parameter for parameter in network.parameters() if parameter.dim() > 1]


@pytest.fixture(scope="module")
def splits() -> Splits:
    return data.load("digits")


@pytest.mark.parametrize("fused_step", [True, False])
@pytest.mark.parametrize("rule", FROZEN.rules)
def test_the_first_layer_is_frozen_below_backpropagation_and_then_all_learn_by_the_rule(
    rule: str, fused_step: bool, splits: Splits
) -> None:
    trainer = Trainer(FROZEN, rule, splits, fused_step=fused_step)
    first, second, _ = weights_of(trainer.network)
    before = first.clone(), second.clone()
    assert {type(r) for r in trainer.network.layer_rules} == {rules.BP}
    for _ in range(2):
        trainer.train_epoch()
    assert torch.equal(first, before[0])
    assert not torch.equal(second, before[1])
    trainer.train_epoch()
    assert not torch.equal(first, before[0])
    names = [r.name for r in trainer.network.layer_rules]
    assert names == {"bp": ["bp"] * 3, "dfa": ["dfa"] * 3, "dfa-below-bp": ["dfa", "bp", "bp"]}[rule]


def test_until_the_rule_begins_it_makes_no_difference(splits: Splits) -> None:
    errors = {}
    for rule in FROZEN.rules:
        trainer = Trainer(FROZEN, rule, splits)
        errors[rule] = [metrics.test_error for metrics in (trainer.train_epoch() for _ in range(3)) if metrics]
    bp, dfa, below = errors.values()
    assert bp[:2] == dfa[:2] == below[:2]
    assert bp[2] != dfa[2]


@pytest.mark.parametrize("stops", [1, 2, 3])
@pytest.mark.parametrize("in_mid_epoch", [False, True])
def test_a_run_that_was_stopped_in_either_phase_ends_with_the_same_bits(
    stops: int, in_mid_epoch: bool, splits: Splits, same_bits: Callable[[object, object], bool]
) -> None:
    unbroken = Trainer(FROZEN, "dfa", splits)
    for _ in range(4):
        unbroken.train_epoch()
    stopped = Trainer(FROZEN, "dfa", splits)
    for _ in range(stops):
        stopped.train_epoch()
    if in_mid_epoch:
        batches = iter([False] * 5)
        assert stopped.train_epoch(lambda: next(batches, True)) is None
    resumed = Trainer(FROZEN, "dfa", splits)
    resumed.restore(stopped.state())
    for _ in range(4 - stops):
        resumed.train_epoch()
    assert same_bits(resumed.state(), unbroken.state())


def test_weight_decay_and_normalised_activities(splits: Splits) -> None:
    plain = MLP.rules["pepita"]
    recipe = replace(
        MLP,
        rules={
            "pepita": plain,
            "decay": replace(plain, rule="pepita", weight_decay=0.1),
            "normalised": replace(plain, rule="pepita", normalise=True),
        },
    )
    norms = {}
    for rule in recipe.rules:
        trainer = Trainer(recipe, rule, splits)
        trainer.train_epoch()
        norms[rule] = weights_of(trainer.network)[0].norm().item()
        if rule == "normalised":
            h = activities(trainer.network, trainer.splits.test.images)[1]
            torch.testing.assert_close(h.square().mean(1), torch.ones(len(h)), atol=1e-3, rtol=0)
    assert norms["decay"] < 0.9 * norms["pepita"]


MIRRORED = replace(MLP, rules={"pepita": replace(MLP.rules["pepita"], mirror=True)})


def test_a_mirrored_projection_is_the_way_back_of_the_weights_with_the_other_sign(splits: Splits) -> None:
    plain, mirrored = (Trainer(recipe, "pepita", splits) for recipe in (MLP, MIRRORED))
    angles, deviations = [], []
    for trainer in (plain, mirrored):
        assert trainer.network.projection is not None
        angles.append(alignment_angles(trainer.network)[0])
        deviations.append(trainer.network.projection.std().item())
    assert 80 < angles[0] < 100
    assert angles[1] > 140
    assert deviations[1] == pytest.approx(deviations[0], rel=1e-5)
    mirrored.train_epoch()
    assert alignment_angles(mirrored.network)[0] > 140


@pytest.mark.parametrize("batches", [0, 5])
def test_a_mirrored_run_that_was_stopped_ends_with_the_same_bits(
    batches: int, splits: Splits, same_bits: Callable[[object, object], bool]
) -> None:
    unbroken = Trainer(MIRRORED, "pepita", splits)
    for _ in range(2):
        unbroken.train_epoch()
    expected = unbroken.state()
    stopped = Trainer(MIRRORED, "pepita", splits)
    stopped.train_epoch()
    answers = iter([False] * batches)
    assert stopped.train_epoch(lambda: next(answers, True)) is None
    state = stopped.state()
    resumed = Trainer(MIRRORED, "pepita", splits)
    resumed.restore(state)
    resumed.train_epoch()
    assert same_bits(resumed.state(), expected)


def test_a_recipe_saved_before_it_had_a_field_is_the_same_recipe() -> None:
    saved = MLP.as_json("dfa")
    assert MLP.is_saved_as(saved, "dfa")
    for path in (("frozen_epochs",), ("rules", "dfa", "upper_rule"), ("architecture", "hidden_dropout")):
        older = MLP.as_json("dfa")
        holder = older
        for name in path[:-1]:
            holder = holder[name]
        del holder[path[-1]]
        assert MLP.is_saved_as(older, "dfa")
    other: Recipe = replace(MLP, frozen_epochs=3)
    del saved["frozen_epochs"]
    assert not other.is_saved_as(saved, "dfa")
    assert not MLP.is_saved_as({**saved, "epochs": 31}, "dfa")
    assert not MLP.is_saved_as({**saved, "unknown": 1}, "dfa")
    assert not MLP.is_saved_as(None, "dfa")
    assert not MLP.is_saved_as(replace(MLP, rules={"dfa": RuleRecipe(1.0, "zero")}).as_json("dfa"), "dfa")
