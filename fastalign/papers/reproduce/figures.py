"""The papers' figures and the statements of their text, as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean

from fastalign.analysis import activities, fit_distributions, fit_plateau, tsne
from fastalign.analysis.plots import (
    Comparison,
    Dependence,
    comparisons,
    dependences,
    embeddings,
    observations,
    plateaus,
    weight_distributions,
)
from fastalign.papers.experiments import EXPERIMENTS, beyond, experiment
from fastalign.papers.experiments.nokland import FROZEN_EPOCHS
from fastalign.papers.experiments.pepita import ALPHAS, CONVOLUTION_VARIANTS, INITS
from fastalign.papers.experiments.published import BP, DFA, TABLES, Column
from fastalign.papers.reproduce.figure import (
    TEST_ACCURACY,
    TEST_ERROR,
    TRAIN_ERROR,
    Figure,
    Run,
    Runs,
    last_values,
    observed,
)

EMBEDDED_SAMPLES = 1000
ALIGNMENT = observed("alignment_angle", 0, "angle of weights to F (°)", reference=90)
FIRST_NORM = observed("weight_norm", 1, "Frobenius norm of W₁")
SLOWNESS = "slowness (epochs)"


def _columns(experiment: str, labels: dict[str, str]) -> list[tuple[str, Column]]:
    """Experiment and column for each of its rules, by the label."""
    return [(experiment, Column(rule, label, rule)) for rule, label in labels.items()]


def _of_table(table: str, experiment: str, *rules: str) -> list[tuple[str, Column]]:
    """Runs that are a table's too."""
    columns = {column.name: column for column in TABLES[table].columns}
    return [(experiment, columns[rule]) for rule in rules]


# Nøkland 2016

A_FREEZE = Figure(
    "A-freeze",
    "Nøkland 2016, fig. 2: a 3x50 tanh net, its first layer frozen at first",
    _columns(
        "nokland/mnist-3x50-tanh-frozen",
        {"bp": "then BP", "dfa": "then DFA", "dfa-below-bp": "then DFA in the first layer, BP above"},
    ),
    (TRAIN_ERROR, TEST_ERROR),
    published={
        "then BP": {TRAIN_ERROR.name: "0 after about 100 epochs"},
        "then DFA": {TRAIN_ERROR.name: "rises, then 0 after about 100 epochs"},
    },
    events={"first layer learns": FROZEN_EPOCHS},
    note=f"For the first {FROZEN_EPOCHS} epochs the layers above it learn by BP; the paper: about 5 % training error.",
)


def _draw_tsne(figure: Figure, runs: Runs, format: str) -> bytes:
    """The input and the hidden layers of each label's first run, a row for each."""
    points, columns = {}, 1
    for label, (run, *_) in runs.items():
        network, splits = run.trained
        found = activities(network, splits.test.images[:EMBEDDED_SAMPLES])
        hidden = list(found.items())[:-1]
        columns = len(hidden)
        for layer, activity in hidden:
            points[f"{label}, {f'hidden layer {layer}' if layer else 'input'}"] = tsne(activity)
        labels = splits.test.labels[:EMBEDDED_SAMPLES]
    return embeddings(points, labels, figure.title, format, columns=columns)


A_TSNE = Figure(
    "A-tsne",
    f"Nøkland 2016, fig. 3: t-SNE of a 3x400 tanh net, {EMBEDDED_SAMPLES:,} test images".replace(",", " "),
    [("nokland/mnist-3x400-tanh", column) for column in (BP, DFA)],
    draw=_draw_tsne,
    shows_networks=True,
    usual_seeds=1,
)

# Dellaferrera & Kreiman 2022


def _at_ten_epochs_and_last(figure: Figure, run: Run) -> dict[str, float]:
    """The angle after 10 epochs beside the last values."""
    tenth = ALIGNMENT.of(run.history[9]) if len(run.history) >= 10 else math.nan
    return {"angle after 10 epochs (°)": tenth, **last_values(figure, run)}


B_ALIGNMENT = Figure(
    "B-alignment",
    "Dellaferrera & Kreiman 2022, §4: antialignment of weights and F, norm of the weights",
    _columns("pepita/mnist-fc-variants", {"pepita": "x + F e", "minus": "x − F e"}),
    (ALIGNMENT, FIRST_NORM, TEST_ACCURACY),
    _at_ten_epochs_and_last,
    measure="accuracy",
)


def _slowness(figure: Figure, run: Run) -> dict[str, float]:
    accuracies = [100 - metrics.test_error for metrics in run.history]
    if len(accuracies) < 2:
        return {}
    fit = fit_plateau(accuracies)
    return {SLOWNESS: fit.slowness, "highest test accuracy (%)": fit.highest}


def _draw_slowness(figure: Figure, runs: Runs, format: str) -> bytes:
    """The mean accuracies of the seeds, as far as all of them have come."""
    accuracies = {
        label: [100 - mean(m.test_error for m in epoch) for epoch in zip(*(run.history for run in seeds), strict=False)]
        for label, seeds in runs.items()
    }
    return plateaus({label: run for label, run in accuracies.items() if len(run) > 1}, figure.title, format)


_FC = {"mnist-fc": (0.026, 0.068, 0.063, 0.049), "cifar10-fc": (0.659, 1.048, 0.336, 0.785)}
_FC["cifar100-fc"] = (1.338, 4.243, 4.05, 2.552)
_SLOWNESS_RULES = ("bp", "fa", "drtp", "pepita")
B_SLOWNESS = Figure(
    "B-slowness",
    "Dellaferrera & Kreiman 2022, §4: slowness of learning, fully connected nets",
    [cell for row in _FC for cell in _of_table("B1", f"pepita/{row}", *_SLOWNESS_RULES)],
    measured=_slowness,
    draw=_draw_slowness,
    published={
        f"{rule.upper()}, {row}": {SLOWNESS: f"{value:g}"}
        for row, values in _FC.items()
        for rule, value in zip(_SLOWNESS_RULES, values, strict=True)
    },
    note="acc(t) = highest · t / (slowness + t), fitted to the first 60 epochs. In the runs kept with the sources "
    "BP on MNIST is as slow as in the paper; FA and PEPITA are slower, FA by far: not explained. DRTP is faster, and "
    "as slow as in the paper by the recipe of the code that the paper used (B-drtp).",
    measure="accuracy",
)


def _weights(layer: int) -> str:
    return "W" + str(layer).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _distributions(figure: Figure, run: Run) -> dict[str, float]:
    """The likelier of the two distributions of each layer's weights."""
    found = {}
    for layer, matrix in run.weights.items():
        fit = fit_distributions(matrix)
        found[f"{_weights(layer)}: standard deviation"] = fit.deviation
        found[f"{_weights(layer)}: 1/ν of t (0: normal)"] = 1 / fit.degrees_of_freedom
        found[f"{_weights(layer)}: log-likelihood, t − normal (per weight)"] = (
            fit.student_log_likelihood - fit.normal_log_likelihood
        )
    return found


def _draw_distributions(figure: Figure, runs: Runs, format: str) -> bytes:
    """The weights of each label's first run, a row for each."""
    weights = {
        f"{label}, {_weights(layer)}": matrix
        for label, (run, *_) in runs.items()
        for layer, matrix in run.weights.items()
    }
    return weight_distributions(weights, figure.title, format, columns=len(weights) // len(runs))


B_DISTRIBUTIONS = Figure(
    "B-distributions",
    "Dellaferrera & Kreiman 2022, §4: weights after training, normal against Student's t",
    _of_table("B1", "pepita/mnist-fc", "bp", "pepita"),
    measured=_distributions,
    draw=_draw_distributions,
    shows_networks=True,
    note="ν: the degrees of freedom of the likeliest t. The paper: W₁ alike; W₂ much wider under PEPITA; "
    "BP fits a normal, PEPITA a Student's t. The runs kept with the sources agree in the width of W₂ and disagree in "
    "the rest: BP's W₁ favours a t; PEPITA's W₁, narrower than BP's, stays as flat as the uniform distribution that it "
    "starts from, which is neither; W₂ favours a t under both, though under PEPITA more. Not explained.",
    measure="accuracy",
)
B_NO_MODULATION = Figure(
    "B-no-modulation",
    "Dellaferrera & Kreiman 2022: without modulation (F = 0) the output layer alone learns",
    [
        cell
        for dataset in ("mnist", "cifar10")
        for cell in _columns(
            f"pepita/{dataset}-fc-variants", {"bp": "BP", "pepita": "PEPITA", "no-modulation": "F = 0"}
        )
    ],
    (TEST_ACCURACY,),
    published={"F = 0, cifar10-fc-variants": {TEST_ACCURACY.name: "44.6"}},
    measure="accuracy",
)


def _draw_perturbation(figure: Figure, runs: Runs, format: str) -> bytes:
    """Accuracy over α, and the levels of the runs without random modulation."""
    last = {label: [100 - run.history[-1].test_error for run in seeds] for label, seeds in runs.items()}
    by_alpha = {alpha: last[_alpha(alpha)] for alpha in ALPHAS if _alpha(alpha) in last}
    levels = {label: mean(values) for label, values in last.items() if not label.startswith("α")}
    panel = Dependence({"x + α r": by_alpha}, levels, logarithmic=True)
    return dependences({"": panel}, "α (no unit)", TEST_ACCURACY.name, figure.title, format)


def _alpha(alpha: float) -> str:
    return f"α = {alpha:g}"


B_PERTURBATION = Figure(
    "B-perturbation",
    "Dellaferrera & Kreiman 2022: a random modulation x + α r in place of x + F e",
    _columns(
        "pepita/mnist-fc-variants",
        {
            "pepita": "PEPITA",
            "no-modulation": "F = 0",
            **{f"random-{alpha:g}": _alpha(alpha) for alpha in ALPHAS},
        },
    ),
    (TEST_ACCURACY,),
    draw=_draw_perturbation,
    note="The paper: chance for large α, the level of F = 0 for small.",
    measure="accuracy",
)
B_WHITENED = Figure(
    "B-whitened",
    "Dellaferrera & Kreiman 2022: whitened MNIST, learning rates divided by 10",
    _columns("pepita/mnist-fc-whitened", {"bp": "BP", "pepita": "PEPITA"}),
    (TEST_ACCURACY, ALIGNMENT),
    published={"PEPITA": {TEST_ACCURACY.name: "92.08 ± 0.14"}},
    measure="accuracy",
)
B_VARIANTS = Figure(
    "B-variants",
    "Dellaferrera & Kreiman 2022: readings of the update",
    _columns(
        "pepita/mnist-fc-variants",
        {
            "pepita": "PEPITA",
            "standard-presynaptic": "presynaptic term of the standard pass",
            "modulated-output": "output error of the modulated pass",
            "hebbian": "two-factor (Hebbian) split",
            "sign-of-error": "sign of the error",
            "minus": "x − F e",
        },
    ),
    (TEST_ACCURACY, ALIGNMENT),
    measure="accuracy",
)


def _draw_together(figure: Figure, runs: Runs, format: str) -> bytes:
    """The figure's first quantity over the epochs, a colour for each label, of whatever experiment."""
    quantity = figure.quantities[0]
    curves = {label: [[quantity.of(m) for m in run.history] for run in seeds] for label, seeds in runs.items()}
    return comparisons({quantity.name: Comparison(curves, quantity=quantity.name)}, "", figure.title, format)


def _accuracy_and_slowness(figure: Figure, run: Run) -> dict[str, float]:
    return {**last_values(figure, run), **_slowness(figure, run)}


B_DRTP = Figure(
    "B-drtp",
    "Dellaferrera & Kreiman 2022, table 1: DRTP as the text has it, and as the code of Frenkel et al. 2019 has it",
    [
        ("pepita/mnist-fc", Column("drtp", "table 1", "drtp")),
        *(
            (f"pepita/mnist-fc-drtp-{name}", Column("drtp", label, "drtp"))
            for name, label in {
                "class-mean": "output error a mean over classes too",
                "hidden-mean": "hidden updates means over the batch",
                "constant-rate": "constant learning rate",
                "input-dropout": "dropout of the input too",
                "biases": "biases, PyTorch's default init",
                "code": "the code's (all but the hidden means)",
                "code-decay": "the code's, the rate falling at epoch 60",
                "code-batch-100": "the code's, batch 100",
                "code-batch-100-decay": "the code's, batch 100, the rate falling at epoch 60",
                "code-tenth-rate": "the code's, a tenth of the rate",
            }.items()
        ),
    ],
    (TEST_ACCURACY,),
    measured=_accuracy_and_slowness,
    draw=_draw_together,
    published={"table 1": {TEST_ACCURACY.name: "95.10 ± 0.10", SLOWNESS: "0.063"}},
    note="Frenkel et al.'s code takes 100 samples a batch unless told otherwise; in the text the rate falls at epoch "
    "60. Of the readings that learn as slowly as published, both together come nearest to the published accuracy.",
    measure="accuracy",
)
_DIVISORS = {
    "mean": "positions",
    "authors": "authors' code",
    "sqrt": "√positions",
    "frozen": "filters frozen",
}
B_CONVOLUTION = Figure(
    "B-convolution",
    "Dellaferrera & Kreiman 2022, §3.3: divisors of a convolution's update and inits, beside frozen filters",
    [
        cell
        for dataset in ("mnist", "cifar10")
        for cell in _columns(
            f"pepita/{dataset}-conv-variants",
            {f"{name}-{init}": f"{_DIVISORS[name]}, {init}" for init in INITS for name in CONVOLUTION_VARIANTS},
        )
    ],
    (TEST_ACCURACY, FIRST_NORM),
    measure="accuracy",
)

# Any network, and beyond the papers


def _last_angles(figure: Figure, run: Run) -> dict[str, float]:
    """The test error, and the angle of each layer."""
    last = run.history[-1]
    angles = last.observations.get("gradient_angle", {})
    return {TEST_ERROR.name: last.test_error, **{f"layer {layer} (°)": value for layer, value in angles.items()}}


def _draw_angles(figure: Figure, runs: Runs, format: str) -> bytes:
    """The angle of each layer over the epochs, a panel for each label's first run."""
    return observations(
        {label: seeds[0].history for label, seeds in runs.items()}, "gradient_angle", figure.title, format
    )


GRADIENT_ANGLE = Figure(
    "gradient-angle",
    "Angle between a rule's update and the gradient (Nøkland 2016, theorem 1)",
    [
        (name, Column(rule, rule.upper(), rule, observe=not recipe.observe))
        for name, recipe in EXPERIMENTS.items()
        for rule in recipe.rules
        if rule != "bp"
    ],
    measured=_last_angles,
    draw=_draw_angles,
    usual_rows=("mnist-3x800-tanh",),
    note="Below 90° a small step lowers the loss. --rows takes any experiment, --rules any of its rules but bp.",
)


def _by_depth(figure: Figure, runs: Runs, format: str) -> bytes:
    """The last test error of each column over the number of hidden layers."""
    lines: dict[str, dict[float, list[float]]] = {}
    for seeds in runs.values():
        depth = len(experiment(seeds[0].experiment).architecture.hidden)
        lines.setdefault(seeds[0].column.label, {})[depth] = [run.history[-1].test_error for run in seeds]
    return dependences({"": Dependence(lines)}, "hidden layers", TEST_ERROR.name, figure.title, format)


RELU_DEPTH = Figure(
    "relu-depth",
    "ReLU nets of 800 units a layer: DFA falls behind BP with depth",
    [cell for recipe in beyond.RELU for cell in _columns(recipe.name, {"bp": "BP", "dfa": "DFA"})],
    (TEST_ERROR, TRAIN_ERROR),
    draw=_by_depth,
)
PEPITA_DEPTH = Figure(
    "pepita-depth",
    "Deeper PEPITA nets of 1024 units a layer (Srinivasan et al. 2023)",
    [
        cell
        for recipe in beyond.DEEPER
        for cell in _columns(
            recipe.name,
            {
                "bp": "BP",
                "pepita": "PEPITA",
                "weight-decay": "weight decay",
                "normalised": "normalised",
                "normalised-weight-decay": "normalised, weight decay",
                "mirrored": "mirrored",
                "mirrored-weight-decay": "mirrored, weight decay",
            },
        )
    ],
    (TEST_ERROR, TRAIN_ERROR),
    draw=_by_depth,
)
DFA_FEEDBACK = Figure(
    "dfa-feedback",
    "DFA in a 3x800 tanh net: a matrix for each layer, one shared by all, the sign of the error",
    _columns(beyond.FEEDBACK.name, {"dfa": "DFA", "dfa-shared": "one shared matrix", "dfa-sign": "sign of the error"}),
    (TEST_ERROR, observed("gradient_angle", 1, "angle between ΔW₁ and the gradient (°)", reference=90)),
)

_ALL: Sequence[Figure] = (
    *(A_FREEZE, A_TSNE),
    *(B_ALIGNMENT, B_SLOWNESS, B_DISTRIBUTIONS, B_NO_MODULATION, B_PERTURBATION, B_WHITENED, B_VARIANTS),
    *(B_DRTP, B_CONVOLUTION, GRADIENT_ANGLE, RELU_DEPTH, PEPITA_DEPTH, DFA_FEEDBACK),
)
FIGURES = {figure.name: figure for figure in _ALL}
