from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastalign import nn, rules
from fastalign.errors import UserError
from fastalign.papers.data import Dataset, cifar
from fastalign.papers.experiments import EXPERIMENTS, experiment
from fastalign.papers.runs.loop import Trainer
from fastalign.papers.runs.network import build_network, freeze_filters, rule_class
from fastalign.papers.runs.optimizers import OPTIMIZERS
from fastalign.papers.runs.recipe import Recipe
from fastalign.step.losses import LOSSES

SHAPES = {
    "digits": ((1, 8, 8), 10),
    "mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
}
EVERY_RULE_OF_EVERY_EXPERIMENT = [(name, rule) for name, recipe in EXPERIMENTS.items() for rule in recipe.rules]


def dataset_for(recipe: Recipe) -> Dataset:
    shape, classes = SHAPES[recipe.dataset]
    dataset = Dataset(torch.rand(4, *shape), torch.arange(4), classes)
    return dataset if recipe.architecture.convolutions else dataset.flatten()


def small(recipe: Recipe) -> Recipe:
    """The recipe with layers of at most 8 units or filters: as deep, quick to build."""
    architecture = recipe.architecture
    hidden = tuple(min(width, 8) for width in architecture.hidden)
    convolutions = tuple(replace(c, filters=min(c.filters, 8)) for c in architecture.convolutions)
    return replace(recipe, architecture=replace(architecture, hidden=hidden, convolutions=convolutions))


def weights_of(network: nn.Sequential) -> list[torch.Tensor]:
    return [module.weight for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]


@pytest.mark.parametrize(("name", "rule"), EVERY_RULE_OF_EVERY_EXPERIMENT)
def test_every_experiment_makes_a_step_with_every_rule_it_lists(name: str, rule: str) -> None:
    recipe = small(EXPERIMENTS[name])
    dataset = dataset_for(recipe)
    network = build_network(recipe, rule, dataset)
    outputs = network(dataset.images, target=dataset.labels)
    assert outputs.shape == (4, dataset.classes)
    LOSSES[recipe.for_rule(rule).loss or recipe.loss](outputs, dataset.labels).backward()
    frozen = recipe.for_rule(rule).options.get("frozen_filters", False)
    for parameter in network.parameters():
        assert (parameter.grad is None) == (frozen and parameter.dim() == 4)
    assert recipe.optimizer in OPTIMIZERS
    assert recipe.reduction in ("mean", "sum")


@pytest.mark.parametrize("rule", ["dfa", "fa"])
def test_noklands_tanh_nets_start_from_zero_with_feedback_that_is_not(rule: str) -> None:
    recipe = experiment("nokland/mnist-2x800-tanh")
    network = build_network(recipe, rule, dataset_for(recipe))
    assert all(not parameter.any() for parameter in network.parameters())
    shapes = {"dfa": [(800, 10), (800, 10)], "fa": [(800, 800), (10, 800)]}[rule]
    feedback = [matrix for matrix in network.feedback if matrix is not None]
    assert [tuple(matrix.shape) for matrix in feedback] == shapes
    for matrix in feedback:
        bound = 1 / math.sqrt(800)
        assert 0.99 * bound < matrix.abs().max() <= bound


def test_nokland_bp_and_relu_start_from_uniform_weights() -> None:
    for name, rule in (("nokland/mnist-2x800-tanh", "bp"), ("nokland/mnist-2x800-relu", "dfa")):
        recipe = experiment(name)
        first = weights_of(build_network(recipe, rule, dataset_for(recipe)))[0]
        assert 0.99 / 28 < first.abs().max() <= 1 / 28


def test_the_regularised_rows_of_nokland() -> None:
    assert experiment("nokland/mnist-2x800-tanh-adversarial").adversarial_epsilon == 0.08
    dropout = experiment("nokland/cifar100-3x1000-tanh-dropout").architecture
    assert (dropout.input_dropout, dropout.hidden_dropout) == (0.1, 0.5)
    whitened = {name for name, recipe in EXPERIMENTS.items() if recipe.whiten}
    assert whitened == {"nokland/cifar10-conv-tanh", "nokland/cifar100-conv-tanh", "pepita/mnist-fc-whitened"}


@pytest.mark.parametrize(("dataset", "learning_rate"), [("cifar10", 5e-5), ("cifar100", 2.5e-5)])
def test_noklands_convolutional_net(dataset: str, learning_rate: float) -> None:
    recipe = experiment(f"nokland/{dataset}-conv-tanh")
    network = build_network(recipe, "dfa", dataset_for(recipe))
    classes = SHAPES[dataset][1]
    assert [tuple(weight.shape) for weight in weights_of(network)] == [
        (96, 3, 5, 5),
        (128, 96, 5, 5),
        (256, 128, 5, 5),
        (2048, 256 * 3 * 3),
        (2048, 2048),
        (classes, 2048),
    ]
    # The error enters each block after its pooling, by a weight for every unit there.
    units = (96 * 15 * 15, 128 * 7 * 7, 256 * 3 * 3, 2048, 2048)
    assert [None if B is None else tuple(B.shape) for B in network.feedback] == [(n, classes) for n in units]
    assert {recipe.for_rule(rule).learning_rate for rule in recipe.rules} == {learning_rate}


def test_ifa_starts_from_weights_that_are_not_zero() -> None:
    recipe = experiment("nokland/mnist-4x100-tanh")
    assert recipe.architecture.hidden == (100,) * 4
    assert all(weight.any() for weight in weights_of(build_network(recipe, "ifa", dataset_for(recipe))))


def test_pepita_nets_have_no_biases_and_the_named_initialisation() -> None:
    dense, convolutional = experiment("pepita/mnist-fc"), experiment("pepita/cifar10-conv")
    network = build_network(dense, "pepita", dataset_for(dense))
    bound = math.sqrt(6 / 784)
    assert [tuple(weight.shape) for weight in network.parameters()] == [(1024, 784), (10, 1024)]
    assert 0.99 * bound < weights_of(network)[0].abs().max() <= bound
    assert network.projection is not None
    assert 0.04 * bound < network.projection.abs().max() <= 0.05 * bound
    network = build_network(convolutional, "pepita", dataset_for(convolutional))
    bound = 1 / math.sqrt(75)
    assert [tuple(weight.shape) for weight in network.parameters()] == [(32, 3, 5, 5), (10, 32 * 14 * 14)]
    assert 0.95 * bound < weights_of(network)[0].abs().max() <= bound


def test_the_papers_learning_rates_and_schedules() -> None:
    def rates(name: str) -> list[float]:
        return [experiment(name).for_rule(rule).learning_rate for rule in ("bp", "fa", "drtp", "pepita")]

    assert rates("pepita/mnist-fc") == [0.1, 0.1, 0.01, 0.1]
    assert rates("pepita/cifar10-fc") == [0.01, 0.001, 0.001, 0.01]
    assert rates("pepita/mnist-conv") == [0.1, 0.1, 0.01, 0.1]
    assert rates("pepita/cifar10-conv") == [0.01, 0.01, 0.01, 0.1]
    assert experiment("pepita/mnist-fc").decay_epochs == (60,)
    assert experiment("pepita/cifar10-fc").decay_epochs == (60, 90)
    assert experiment("pepita/cifar10-conv").decay_epochs == (10, 30, 50)
    nokland = experiment("nokland/mnist-100x240-tanh")
    assert nokland.architecture.hidden == (240,) * 100
    assert (nokland.optimizer, nokland.loss, nokland.reduction) == ("rmsprop", "binary_cross_entropy", "sum")
    assert (nokland.batch_size, nokland.epochs, nokland.stop_at_train_error) == (64, 300, 0.01)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if "/cifar100-" in name])
def test_the_cifar100_experiments_train_from_the_official_files(name: str, tmp_path: Path) -> None:
    records = torch.randint(0, 256, (20, 2 + 3072), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    records[:, 1] %= 100
    for file in ("train.bin", "test.bin"):
        (tmp_path / file).write_bytes(records.numpy().tobytes())
    splits = cifar.load(tmp_path, replace(cifar.CIFAR100, train_records=20, test_records=20))
    metrics = Trainer(replace(small(EXPERIMENTS[name]), batch_size=8), "bp", splits).train_epoch()
    assert metrics is not None
    assert math.isfinite(metrics.train_loss)


def test_frozen_filters_keep_convolutions_only() -> None:
    recipe = experiment("digits/conv")
    network = build_network(recipe, "bp", dataset_for(recipe))
    freeze_filters(network)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert module.weight.requires_grad == isinstance(module, nn.Linear)


def test_unknown_names_are_refused_with_what_there_is() -> None:
    with pytest.raises(UserError, match="'digit/mlp'; did you mean digits/mlp"):
        experiment("digit/mlp")
    with pytest.raises(
        UserError, match="rule is 'ifa', expected one of those of pepita/mnist-fc: bp, fa, drtp, pepita"
    ):
        experiment("pepita/mnist-fc").for_rule("ifa")


def test_every_rule_of_the_library_is_in_some_recipe() -> None:
    assert {rule_class(recipe, rule) for recipe in EXPERIMENTS.values() for rule in recipe.rules} == {
        *rules.RULES.values()
    }


def test_the_readings_of_drtp_differ_from_the_table_in_what_they_say() -> None:
    """Of a step from the same start with no dropout: the hidden update as it was, the output's a tenth of it."""
    images, labels = torch.rand(4, 784), torch.arange(4)
    moved = {}
    for name in ("pepita/mnist-fc", "pepita/mnist-fc-drtp-class-mean", "pepita/mnist-fc-drtp-hidden-mean"):
        recipe = experiment(name)
        recipe = replace(recipe, architecture=replace(recipe.architecture, hidden_dropout=0.0))
        torch.manual_seed(0)
        network = build_network(recipe, "drtp", dataset_for(recipe))
        before = [weight.clone() for weight in weights_of(network)]
        optimizer = torch.optim.SGD(network.parameters(), lr=recipe.for_rule("drtp").learning_rate)
        loss = LOSSES["binary_cross_entropy"](network(images, labels), labels) / len(images)
        loss.backward()
        optimizer.step()
        moved[name] = [weight.detach() - start for weight, start in zip(weights_of(network), before, strict=True)]
    table, class_mean, hidden_mean = moved.values()
    torch.testing.assert_close(class_mean[0], table[0], rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(class_mean[1], table[1] / 10, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(hidden_mean[0], table[0] / len(images), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(hidden_mean[1], table[1], rtol=1e-3, atol=1e-7)
