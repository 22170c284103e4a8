"""Nøkland, Direct Feedback Alignment Provides Learning in Deep Neural Networks (NIPS 2016), tables 1 to 3.

Every row: logistic outputs and binary cross-entropy, summed over the batch, so that the error is e = ŷ − y, not divided
by the batch (error_scale 1, the only one that rules linear in e know); RMSprop with α = 0.99, ε = 1e-8, learning rate
1e-4, constant; batch 64; at most 300 epochs, or until the training error is 0.01 %; biases everywhere; input in [0, 1].

Initialisation: tanh and logistic nets start from zero weights and biases under FA and DFA, from U(±1/√fan_in) under BP;
ReLU nets start from U(±1/√fan_in) under every rule. DFA's feedback is U(±1/√n_l), FA's a copy of the weights before
they are set to zero.
"""

from __future__ import annotations

from fastalign.training.recipe import Architecture, Recipe, RuleRecipe

LEARNING_RATE = 1e-4


def _row(dataset: str, name: str, width: int, depth: int, activation: str, dropout: bool = False) -> Recipe:
    alignment_start = "uniform-fan-in" if activation == "relu" else "zero"
    return Recipe(
        name=f"nokland/{dataset}-{name}",
        source=f"Nøkland 2016, table {1 if dataset == 'mnist' else 2}",
        dataset=dataset,
        architecture=Architecture(
            hidden=(width,) * depth,
            activation=activation,
            input_dropout=0.1 if dropout else 0.0,
            hidden_dropout=0.5 if dropout else 0.0,
        ),
        loss="binary_cross_entropy",
        reduction="sum",
        optimizer="rmsprop",
        batch_size=64,
        epochs=300,
        rules={
            "bp": RuleRecipe(LEARNING_RATE, "uniform-fan-in"),
            "fa": RuleRecipe(LEARNING_RATE, alignment_start, {"feedback": "weights"}),
            "dfa": RuleRecipe(LEARNING_RATE, alignment_start, {"feedback": "uniform-fan-out"}),
        },
        stop_at_train_error=0.01,
    )


EXPERIMENTS = (
    _row("mnist", "7x240-tanh", 240, 7, "tanh"),
    _row("mnist", "100x240-tanh", 240, 100, "tanh"),
    _row("mnist", "1x800-tanh", 800, 1, "tanh"),
    _row("mnist", "2x800-tanh", 800, 2, "tanh"),
    _row("mnist", "3x800-tanh", 800, 3, "tanh"),
    _row("mnist", "4x800-tanh", 800, 4, "tanh"),
    _row("mnist", "2x800-logistic", 800, 2, "logistic"),
    _row("mnist", "2x800-relu", 800, 2, "relu"),
    _row("mnist", "2x800-tanh-dropout", 800, 2, "tanh", dropout=True),
    _row("cifar10", "1x1000-tanh", 1000, 1, "tanh"),
    _row("cifar10", "3x1000-tanh", 1000, 3, "tanh"),
    _row("cifar10", "3x1000-tanh-dropout", 1000, 3, "tanh", dropout=True),
    _row("cifar100", "1x1000-tanh", 1000, 1, "tanh"),
    _row("cifar100", "3x1000-tanh", 1000, 3, "tanh"),
    _row("cifar100", "3x1000-tanh-dropout", 1000, 3, "tanh", dropout=True),
)
