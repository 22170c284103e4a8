"""The built-in experiments: scikit-learn's 8 × 8 digits, seconds to train, nothing to download.

Softmax and cross-entropy, the mean over the batch (error_scale N, the default); SGD with momentum 0.9; weights
U(±1/√fan_in), biases too. The learning rates are this project's own choice.
"""

from __future__ import annotations

from fastalign.papers.runs.recipe import Architecture, Convolution, Recipe, RuleRecipe


def _recipe(name: str, architecture: Architecture, learning_rates: dict[str, float]) -> Recipe:
    return Recipe(
        name=f"digits/{name}",
        source="built in",
        dataset="digits",
        architecture=architecture,
        loss="cross_entropy",
        reduction="mean",
        optimizer="sgd",
        batch_size=32,
        epochs=30,
        rules={rule: RuleRecipe(rate, "uniform-fan-in") for rule, rate in learning_rates.items()},
    )


MLP = _recipe(
    "mlp",
    Architecture(hidden=(128, 128), activation="tanh"),
    {"bp": 0.05, "fa": 0.05, "dfa": 0.05, "ifa": 0.05, "drtp": 0.02, "pepita": 0.1},
)
CONV = _recipe(
    "conv",
    Architecture(convolutions=(Convolution(filters=16, kernel=3),), hidden=(64,), activation="tanh"),
    {"bp": 0.05, "fa": 0.05, "dfa": 0.05, "drtp": 0.02, "pepita": 0.1},
)
EXPERIMENTS = (MLP, CONV)
