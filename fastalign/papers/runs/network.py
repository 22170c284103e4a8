"""The network of a recipe."""

from __future__ import annotations

from collections.abc import Callable

from fastalign import initialise, nn, rules
from fastalign.analysis import stages_of
from fastalign.papers.data import Dataset, Splits, whitened
from fastalign.papers.runs.recipe import Architecture, Recipe
from fastalign.step import REDUCTIONS


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
        *_layers(recipe.architecture, activation, input_shape, dataset.classes, for_rule.normalise),
        rule="bp",
        input_shape=input_shape,
    )
    zero = for_rule.initialisation == "zero"
    initialise(network, "uniform-fan-in" if zero else for_rule.initialisation)
    set_rule(network, recipe, rule, share_of_updates)
    if zero:
        initialise(network, "zero")
    return network


def rule_class(recipe: Recipe, rule: str) -> type[rules.Rule]:
    """The class of the recipe's rule of this name."""
    return rules.RULES[recipe.for_rule(rule).rule or rule]


def set_rule(
    network: nn.Sequential, recipe: Recipe, rule: str, share_of_updates: Callable[[], float] = lambda: 1.0
) -> None:
    """Give the network the recipe's rule, or one to its first layer and the upper rule to the others.

    Rules that need the error of a sample have the `error_scale` of the recipe's loss, if none of their own.
    """
    for_rule = recipe.for_rule(rule)
    options = dict(for_rule.options)
    if "error_scale" in options:
        error_scale = options["error_scale"]
        options["error_scale"] = lambda batch: error_scale * (share_of_updates() or 1.0)
    lowest = rule_class(recipe, rule)(**options)
    if for_rule.upper_rule is None:
        network.set_rule(lowest)
    else:
        upper = rules.named(for_rule.upper_rule)
        network.set_rule([lowest, *[upper] * (len(stages_of(network)) - 2)])
    for made in network.layer_rules:
        if made.takes_sample_error and made.error_scale is None:
            made.error_scale = REDUCTIONS[recipe.reduction]


def set_first_layer_frozen(network: nn.Sequential, frozen: bool) -> None:
    """Keep the first layer as it is, or train it again."""
    for parameter in stages_of(network)[1].parameters():
        parameter.requires_grad_(not frozen)


def prepared(recipe: Recipe, splits: Splits) -> Splits:
    """The data as the recipe's network takes them: whitened where it says so, in rows where there is no convolution."""
    if recipe.whiten:
        splits = whitened(splits)
    return splits if recipe.architecture.convolutions else splits.flatten()


def freeze_filters(network: nn.Sequential) -> None:
    """Keep every convolution as it was drawn: the control beside a rule's result on convolutions."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.requires_grad_(False)


def _layers(
    architecture: Architecture, activation: str, input_shape: tuple[int, ...], classes: int, normalise: bool
) -> list[nn.Module]:
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
            if convolution.dropout:
                layers.append(nn.Dropout(convolution.dropout))
            layers.append(nn.MaxPool2d(convolution.pool, convolution.pool_stride))
            channels = convolution.filters
            size = size + 2 * convolution.padding - convolution.kernel + 1
            size = (size - convolution.pool) // convolution.pool_stride + 1
        layers.append(nn.Flatten())
        features = channels * size * size
    for width in architecture.hidden:
        layers.append(nn.Linear(features, width, bias=architecture.bias, activation=activation))
        if architecture.hidden_dropout:
            layers.append(nn.Dropout(architecture.hidden_dropout))
        if normalise:
            layers.append(nn.RMSNorm(width, elementwise_affine=False))
        features = width
    layers.append(nn.Linear(features, classes, bias=architecture.bias))
    return layers
