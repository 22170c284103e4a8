"""Watch a network align while it learns: angles of its updates to the gradient, and of its weights to the feedback.

python examples/alignment_plot.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

import fastalign.nn as nn
from fastalign.analysis import alignment_angles, gradient_angles, plots
from fastalign.papers import data
from fastalign.papers.runs.metrics import Metrics

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
digits = data.load("digits").to("cpu", torch.float32).flatten()
observed, targets = digits.train.images[:256], digits.train.labels[:256]
curves: dict[str, list[Metrics]] = {}
for rule, rate in (("dfa", 0.05), ("pepita", 0.1)):
    torch.manual_seed(0)
    hidden = [nn.Linear(64, 128, activation="tanh"), nn.Linear(128, 128, activation="tanh")]
    network = nn.Sequential(*hidden, nn.Linear(128, 10), rule=rule)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
    curves[rule.upper()] = []
    for epoch in range(1, 11):
        for batch in torch.randperm(len(digits.train)).split(32):
            loss = F.cross_entropy(network(digits.train.images[batch]), digits.train.labels[batch])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        angles = {
            "gradient_angle": gradient_angles(network, observed, lambda outputs: F.cross_entropy(outputs, targets)),
            "alignment_angle": alignment_angles(network),
        }
        wrong = 100 * (network(digits.test.images).argmax(1) != digits.test.labels).float().mean().item()
        nan = float("nan")
        curves[rule.upper()].append(Metrics(epoch, loss.item(), nan, wrong, nan, rate, angles))
    print(f"{rule}: test error {wrong:.2f} %, angles to the gradient {angles['gradient_angle']}")

for name in ("gradient_angle", "alignment_angle"):
    (folder / f"{name}.png").write_bytes(plots.observations(curves, name, "digits, 64-128-128-10"))
    (folder / f"{name}.svg").write_bytes(plots.observations(curves, name, "digits, 64-128-128-10", format="svg"))
