"""A learning rule of your own: DFA whose hidden units each hear the error of a single class.

Crafton et al. 2019 (arXiv 1903.02083) train so with sparse feedback. What a rule sees of a network is in
`fastalign/rules/base.py`.

python examples/new_rule.py
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

import fastalign.nn as nn
from fastalign import rules
from fastalign.papers import data
from fastalign.rules import Layer, Step, Update


class SparseDFA(rules.DFA):
    """δ_l = (S_l e) ⊙ f′(a_l), S_l the largest entry of each row of B_l; inherits how B_l is drawn."""

    name = "sparse-dfa"

    def updates(self, step: Step, layers: Sequence[Layer], above: Update) -> Iterator[Update]:
        """ΔW_l = Σ δ_l ⊗ h_{l−1} of each hidden layer."""
        error = step.error.flatten(1)
        for layer in layers:
            assert layer.feedback is not None
            magnitude = layer.feedback.abs()
            one_class = torch.where(magnitude == magnitude.amax(1, keepdim=True), layer.feedback, 0.0)
            yield Update(layer, post=layer.delta(error, one_class), pre=layer.input)


torch.manual_seed(0)
digits = data.load("digits").to("cpu", torch.float32).flatten()
hidden = [nn.Linear(64, 128, activation="tanh"), nn.Linear(128, 128, activation="tanh")]
network = nn.Sequential(*hidden, nn.Linear(128, 10), rule=SparseDFA())
optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
for _ in range(10):
    for batch in torch.randperm(len(digits.train)).split(32):
        F.cross_entropy(network(digits.train.images[batch]), digits.train.labels[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()

wrong = (network(digits.test.images).argmax(1) != digits.test.labels).float().mean().item()
print(f"test error {100 * wrong:.2f} %")
