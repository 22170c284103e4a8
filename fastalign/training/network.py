"""The network of a recipe."""

from __future__ import annotations

from collections.abc import Callable

from fastalign import nn, rules
from fastalign.data import Dataset
from fastalign.initialisation import initialise
from fastalign.training.recipe import Architecture, Recipe


def build_network(
    recipe: Recipe, rule: str, dataset: Dataset, share_of_updates: Callable[[], float] = lambda: 1.0
) -> nn.Sequential:
    """The recipe's network with its rule, initialised, for images like the data set's.

    share_of_updates: what the updates of a step will be multiplied by when those of all processes are added up; an
        `error_scale` that the recipe fixes is not a mean over this process's samples and must not shrink with them.
    """
    for_rule = recipe.for_rule(rule)
    activation = for_rule.activation or recipe.architecture.activation
    input_shape = tuple(dataset.images.shape[1:])
    network = nn.Sequential(
        *_layers(recipe.architecture, activation, input_shape, dataset.classes), rule="bp", input_shape=input_shape
    )
    zero = for_rule.initialisation == "zero"
    initialise(network, "uniform-fan-in" if zero else for_rule.initialisation)
    options = dict(for_rule.options)
    if "error_scale" in options:
        error_scale = options["error_scale"]
        options["error_scale"] = lambda batch: error_scale * (share_of_updates() or 1.0)
    network.set_rule(rules.RULES[rule](**options))
    if zero:
        initialise(network, "zero")
    return network


def freeze_filters(network: nn.Sequential) -> None:
    """Keep every convolution as it was drawn: the control beside a rule's result on convolutions."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.requires_grad_(False)


def _layers(architecture: Architecture, activation: str, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    if architecture.input_dropout:
        layers.append(nn.Dropout(architecture.input_dropout))
    features = input_shape[0]
    if architecture.convolutions:
        channels, size = input_shape[0], input_shape[1]
        for convolution in architecture.convolutions:
            layers.append(
                nn.Conv2d(
                    channels,
                    convolution.filters,
                    convolution.kernel,
                    padding=convolution.padding,
                    bias=architecture.bias,
                    activation=activation,
                )
            )
            layers.append(nn.MaxPool2d(convolution.pool, convolution.pool_stride))
            if convolution.dropout:
                layers.append(nn.Dropout(convolution.dropout))
            channels = convolution.filters
            size = size + 2 * convolution.padding - convolution.kernel + 1
            size = (size - convolution.pool) // convolution.pool_stride + 1
        layers.append(nn.Flatten())
        features = channels * size * size
    for width in architecture.hidden:
        layers.append(nn.Linear(features, width, bias=architecture.bias, activation=activation))
        if architecture.hidden_dropout:
            layers.append(nn.Dropout(architecture.hidden_dropout))
        features = width
    layers.append(nn.Linear(features, classes, bias=architecture.bias))
    return layers
