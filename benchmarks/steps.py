"""A training step of 784-1024-10 at batch 64, in float32: fastalign against the best plain PyTorch of the same step.

    python benchmarks/steps.py [--rounds 40] [--json FILE]

The variants are interleaved, so that a noisy machine disturbs all alike. Plain PyTorch is written without autograd,
in place, its updates riding into the momentum (`addmm_`), and returns the loss as the others do. "loop" is
the ordinary loop (loss.backward(), torch.optim.SGD(fused=True)), "step" is fastalign.TrainStep.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import environment
import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign
import fastalign.nn as nn

SAMPLES, INPUTS, HIDDEN, CLASSES = 64, 784, 1024, 10
LEARNING_RATE, MOMENTUM = 0.1, 0.9
BATCHES = [(torch.rand(SAMPLES, INPUTS), torch.randint(CLASSES, (SAMPLES,))) for _ in range(8)]
STEPS_PER_ROUND = 10

Step = Callable[[int], object]


TARGETS = [F.one_hot(y, CLASSES).float() for _, y in BATCHES]


def loss_and_error(outputs: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy, and ŷ − y of every sample."""
    log_probabilities = torch.log_softmax(outputs, 1)
    loss = F.nll_loss(log_probabilities, BATCHES[i % 8][1])
    return loss, log_probabilities.exp_().sub_(TARGETS[i % 8])


def plain_dfa() -> Step:
    """DFA with tanh and biases."""
    w1, w2 = torch.empty(HIDDEN, INPUTS).uniform_(-0.03, 0.03), torch.empty(CLASSES, HIDDEN).uniform_(-0.03, 0.03)
    b1, b2, feedback = torch.zeros(HIDDEN), torch.zeros(CLASSES), torch.empty(HIDDEN, CLASSES).uniform_(-0.03, 0.03)
    v1, v2, u1, u2 = (torch.zeros_like(p) for p in (w1, w2, b1, b2))

    @torch.no_grad()
    def step(i: int) -> Tensor:
        x = BATCHES[i % 8][0]
        h = torch.addmm(b1, x, w1.t()).tanh_()
        loss, e = loss_and_error(torch.addmm(b2, h, w2.t()), i)
        e.mul_(1 / SAMPLES)
        delta = torch.mm(e, feedback.t()).mul_(1 - h * h)
        v2.addmm_(e.t(), h, beta=MOMENTUM)
        u2.mul_(MOMENTUM).add_(e.sum(0))
        v1.addmm_(delta.t(), x, beta=MOMENTUM)
        u1.mul_(MOMENTUM).add_(delta.sum(0))
        for parameter, velocity in ((w1, v1), (b1, u1), (w2, v2), (b2, u2)):
            parameter.sub_(velocity, alpha=LEARNING_RATE)
        return loss

    return step


def plain_pepita(delta_form: bool, one_product: bool = False) -> Step:
    """PEPITA with ReLU, without biases; as usually written, or in the delta form with the faster order of W_1 F.

    one_product: take W_1 F from the forward product, F standing under the batch.
    """
    w1, w2 = torch.empty(HIDDEN, INPUTS).uniform_(-0.03, 0.03), torch.empty(CLASSES, HIDDEN).uniform_(-0.03, 0.03)
    projection = torch.empty(INPUTS, CLASSES).uniform_(-0.004, 0.004)
    projection_transposed = projection.t().contiguous()
    beside = torch.cat((torch.empty(SAMPLES, INPUTS), projection_transposed))
    v1, v2 = torch.zeros_like(w1), torch.zeros_like(w2)

    @torch.no_grad()
    def step(i: int) -> Tensor:
        x = BATCHES[i % 8][0]
        if one_product:
            beside[:SAMPLES].copy_(x)
            a, folded = torch.mm(beside, w1.t()).split((SAMPLES, CLASSES))
        else:
            a = torch.mm(x, w1.t())
        h = torch.relu(a)
        loss, e = loss_and_error(torch.mm(h, w2.t()), i)
        x_mod = torch.addmm(x, e, projection_transposed)
        if one_product:
            h_mod = torch.addmm(a, e, folded).relu_()
        elif delta_form:
            h_mod = torch.addmm(a, e, torch.mm(projection_transposed, w1.t())).relu_()
        else:
            h_mod = torch.mm(x_mod, w1.t()).relu_()
        v2.addmm_(e.t(), h_mod, beta=MOMENTUM, alpha=1 / SAMPLES)
        v1.addmm_(h.sub_(h_mod).t(), x_mod, beta=MOMENTUM, alpha=1 / SAMPLES)
        w1.sub_(v1, alpha=LEARNING_RATE)
        w2.sub_(v2, alpha=LEARNING_RATE)
        return loss

    return step


def torch_bp(activation: type[torch.nn.Module], bias: bool) -> Step:
    """Backpropagation by autograd, with torch's fused SGD."""
    network = torch.nn.Sequential(
        torch.nn.Linear(INPUTS, HIDDEN, bias), activation(), torch.nn.Linear(HIDDEN, CLASSES, bias)
    )
    return loop(network)


def network_of(rule: str, activation: str, bias: bool) -> nn.Sequential:
    """The network under a rule of fastalign."""
    return nn.Sequential(
        nn.Linear(INPUTS, HIDDEN, bias, activation=activation), nn.Linear(HIDDEN, CLASSES, bias), rule=rule
    )


def loop(network: torch.nn.Module) -> Step:
    """The ordinary training loop."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, fused=True)

    def step(i: int) -> None:
        x, y = BATCHES[i % 8]
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def train_step(network: nn.Sequential) -> Step:
    """fastalign.TrainStep."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    step = fastalign.TrainStep(network, loss="cross_entropy", optimizer=optimizer)
    return lambda i: step.step(*BATCHES[i % 8])


def measure(variants: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Microseconds a step of every variant, one number a round."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, step in variants.items():
            step(0)
            start = time.perf_counter()
            for i in range(STEPS_PER_ROUND):
                step(i)
            times[name].append((time.perf_counter() - start) / STEPS_PER_ROUND * 1e6)
    return times


def main() -> None:
    """Measure, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    variants = {
        "DFA, plain PyTorch": plain_dfa(),
        "DFA, fastalign step": train_step(network_of("dfa", "tanh", True)),
        "DFA, fastalign loop": loop(network_of("dfa", "tanh", True)),
        "BP, torch loop": torch_bp(torch.nn.Tanh, True),
        "PEPITA, plain PyTorch, two passes": plain_pepita(delta_form=False),
        "PEPITA, plain PyTorch, delta form": plain_pepita(delta_form=True),
        "PEPITA, plain PyTorch, one product": plain_pepita(delta_form=True, one_product=True),
        "PEPITA, fastalign step": train_step(network_of("pepita", "relu", False)),
        "PEPITA, fastalign loop": loop(network_of("pepita", "relu", False)),
    }
    times = measure(variants, options.rounds)
    rows = []
    for name, values in times.items():
        tenths = statistics.quantiles(values, n=10)
        rows.append(
            {"variant": name, "median_us": statistics.median(values), "p10_us": tenths[0], "p90_us": tenths[-1]}
        )
    baseline = {
        rule: min((r for r in rows if r["variant"].startswith(f"{rule}, plain")), key=lambda row: row["median_us"])
        for rule in ("DFA", "PEPITA")
    }
    print(f"{'variant':36} {'median µs':>10} {'p10':>8} {'p90':>8} {'× best plain':>12}")
    for row in rows:
        base = baseline["PEPITA" if row["variant"].startswith("PEPITA") else "DFA"]
        row["ratio_to_best_plain"] = row["median_us"] / base["median_us"]
        print(
            f"{row['variant']:36} {row['median_us']:10.0f} {row['p10_us']:8.0f} {row['p90_us']:8.0f} "
            f"{row['ratio_to_best_plain']:12.2f}"
        )
    if options.json:
        shape = f"{INPUTS}-{HIDDEN}-{CLASSES}, batch {SAMPLES}, float32, SGD with momentum"
        result = {**environment.describe(), "network": shape, "steps": rows}
        options.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
