"""What came after the papers, and what is known to go wrong, on MNIST.

relu-…x800: nets of 800 ReLU units a layer in Nøkland's recipe; his DFA is known to fall behind with their depth.
feedback-3x800: one feedback matrix for all layers, each taking its first rows (Launay et al. 2020); the sign of
the error in place of the error (Frenkel et al. 2019).
pepita-…x1024: deeper nets in Dellaferrera and Kreiman's recipe (Srinivasan et al. 2023, arXiv 2302.05440), with weight
decay, with activities of unit root mean square (the authors divide by the norm of the whole batch's activity; here
each sample has its own, so that it does not depend on the others), and with weight mirroring.
"""

from __future__ import annotations

from dataclasses import replace

from fastalign.papers.experiments import nokland, pepita
from fastalign.papers.runs.recipe import Recipe, RuleRecipe

DEPTHS = (1, 2, 3, 4, 5)
EPOCHS = 60
WEIGHT_DECAY = 1e-4


def _relu(depth: int) -> Recipe:
    row = nokland.row(f"mnist-{depth}x800-relu", 1, nokland.dense(depth, 800, "relu"))
    rules = {rule: row.rules[rule] for rule in ("bp", "dfa")}
    return replace(row, name=f"beyond/mnist-relu-{depth}x800", source="this project", epochs=EPOCHS, rules=rules)


def _feedback() -> Recipe:
    row = nokland.row("mnist-3x800-tanh", 1, nokland.dense(3, 800))
    dfa = row.rules["dfa"]
    shared = replace(dfa, rule="dfa", options={**dfa.options, "shared_feedback": True})
    sign = replace(dfa, rule="dfa", options={**dfa.options, "sign_of_error": True, "error_scale": 1.0})
    return replace(
        row,
        name="beyond/mnist-feedback-3x800",
        source="Launay et al. 2020; Frenkel et al. 2019",
        epochs=EPOCHS,
        rules={"dfa": dfa, "dfa-shared": shared, "dfa-sign": sign},
        observe=True,
    )


def _pepita(depth: int) -> Recipe:
    row = pepita.MNIST_FC
    plain = replace(row.rules["pepita"], rule="pepita")
    rules: dict[str, RuleRecipe] = {
        "bp": row.rules["bp"],
        "pepita": plain,
        "weight-decay": replace(plain, weight_decay=WEIGHT_DECAY),
        "normalised": replace(plain, normalise=True),
        "normalised-weight-decay": replace(plain, normalise=True, weight_decay=WEIGHT_DECAY),
        "mirrored": replace(plain, mirror=True),
        "mirrored-weight-decay": replace(plain, mirror=True, weight_decay=WEIGHT_DECAY),
    }
    return replace(
        row,
        name=f"beyond/mnist-pepita-{depth}x1024",
        source="Srinivasan et al. 2023",
        architecture=replace(row.architecture, hidden=(1024,) * depth),
        rules=rules,
    )


RELU = tuple(_relu(depth) for depth in DEPTHS)
FEEDBACK = _feedback()
DEEPER = tuple(_pepita(depth) for depth in DEPTHS)
EXPERIMENTS = (*RELU, FEEDBACK, *DEEPER)
