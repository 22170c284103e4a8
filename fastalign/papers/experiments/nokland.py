"""Nøkland, Direct Feedback Alignment Provides Learning in Deep Neural Networks (NIPS 2016), tables 1 to 3 and IFA.

Every row: logistic outputs and binary cross-entropy, summed over the batch, so that the error is e = ŷ − y, not divided
by the batch (error_scale 1, the only one that rules linear in e know); RMSprop with α = 0.99, ε = 1e-8, learning rate
1e-4 (convolutional: 5e-5 on CIFAR-10, 2.5e-5 on CIFAR-100), constant; batch 64; at most 300 epochs, or until the
training error is 0.01 %; biases everywhere; input in [0, 1], for convolutional nets ZCA-whitened instead.

Initialisation: tanh and logistic nets start from zero weights and biases under FA and DFA, from U(±1/√fan_in) under BP;
ReLU nets start from U(±1/√fan_in) under every rule. DFA's feedback is U(±1/√n_l), FA's a copy of the weights before
they are set to zero. (The published code leaves the first layer of a dense net under FA at U(±1/√fan_in). It also stops
later, when a running mean of the training error is 0.01 %: `Recipe.stop_by_running_mean`, which no row has.)

dropout: 0.1 on the input, 0.5 on hidden layers. adversarial: trained only on x + 0.08 · sign(∂E/∂x), the gradient by
true backpropagation under every rule. conv: 5 × 5 convolutions of 96, 128 and 256 filters, padded by 2, each with tanh
and overlapping max-pooling 3/2, then two hidden layers of 2048; no dropout. 4x100: IFA needs weights that are not zero,
for it sends its signal through them.

Beside the tables: 3x400 for the t-SNE of fig. 3. 3x50-frozen for fig. 2: the first layer stays random for 50 epochs
while those above learn by BP; then all learn, by BP, by DFA, or by DFA in the first layer and BP above it; weights
U(±1/√fan_in).
"""

from __future__ import annotations

from dataclasses import replace

from fastalign.papers.runs.recipe import Architecture, Convolution, Recipe, RuleRecipe

LEARNING_RATE = 1e-4
CONVOLUTIONS = tuple(Convolution(filters, kernel=5, padding=2, pool=3, pool_stride=2) for filters in (96, 128, 256))


def row(name: str, table: int, architecture: Architecture, learning_rate: float = LEARNING_RATE) -> Recipe:
    """A row of a table: this architecture in the paper's recipe."""
    alignment_start = "uniform-fan-in" if architecture.activation == "relu" else "zero"
    return Recipe(
        name=f"nokland/{name}",
        source=f"Nøkland 2016, table {table}",
        dataset=name.partition("-")[0],
        architecture=architecture,
        loss="binary_cross_entropy",
        reduction="sum",
        optimizer="rmsprop",
        batch_size=64,
        epochs=300,
        rules={
            "bp": RuleRecipe(learning_rate, "uniform-fan-in"),
            "fa": RuleRecipe(learning_rate, alignment_start, {"feedback": "weights"}),
            "dfa": RuleRecipe(learning_rate, alignment_start, {"feedback": "uniform-fan-out"}),
        },
        stop_at_train_error=0.01,
    )


def dense(depth: int, width: int, activation: str = "tanh", dropout: bool = False) -> Architecture:
    """So many hidden layers of this width."""
    return Architecture(
        hidden=(width,) * depth,
        activation=activation,
        input_dropout=0.1 if dropout else 0.0,
        hidden_dropout=0.5 if dropout else 0.0,
    )


def _cifar(dataset: str, table: int, convolutional_learning_rate: float) -> tuple[Recipe, ...]:
    convolutional = Architecture(convolutions=CONVOLUTIONS, hidden=(2048, 2048))
    return (
        row(f"{dataset}-1x1000-tanh", table, dense(1, 1000)),
        row(f"{dataset}-3x1000-tanh", table, dense(3, 1000)),
        row(f"{dataset}-3x1000-tanh-dropout", table, dense(3, 1000, dropout=True)),
        replace(row(f"{dataset}-conv-tanh", table, convolutional, convolutional_learning_rate), whiten=True),
    )


EXPERIMENTS = (
    row("mnist-7x240-tanh", 1, dense(7, 240)),
    row("mnist-100x240-tanh", 1, dense(100, 240)),
    row("mnist-1x800-tanh", 1, dense(1, 800)),
    row("mnist-2x800-tanh", 1, dense(2, 800)),
    row("mnist-3x800-tanh", 1, dense(3, 800)),
    row("mnist-4x800-tanh", 1, dense(4, 800)),
    row("mnist-2x800-logistic", 1, dense(2, 800, "logistic")),
    row("mnist-2x800-relu", 1, dense(2, 800, "relu")),
    row("mnist-2x800-tanh-dropout", 1, dense(2, 800, dropout=True)),
    replace(row("mnist-2x800-tanh-adversarial", 1, dense(2, 800)), adversarial_epsilon=0.08),
    *_cifar("cifar10", 2, convolutional_learning_rate=5e-5),
    *_cifar("cifar100", 3, convolutional_learning_rate=2.5e-5),
    replace(
        row("mnist-4x100-tanh", 1, dense(4, 100)),
        source="Nøkland 2016, indirect feedback alignment",
        rules={"ifa": RuleRecipe(LEARNING_RATE, "uniform-fan-in", {"feedback": "uniform-fan-out"})},
    ),
)

FROZEN_EPOCHS = 50
SECONDARY = (
    replace(row("mnist-3x400-tanh", 1, dense(3, 400)), source="Nøkland 2016, fig. 3"),
    replace(
        row("mnist-3x50-tanh-frozen", 1, dense(3, 50)),
        source="Nøkland 2016, fig. 2",
        frozen_epochs=FROZEN_EPOCHS,
        rules={
            name: RuleRecipe(LEARNING_RATE, "uniform-fan-in", rule=rule, upper_rule=upper_rule)
            for name, rule, upper_rule in (("bp", "bp", None), ("dfa", "dfa", None), ("dfa-below-bp", "dfa", "bp"))
        },
    ),
)
