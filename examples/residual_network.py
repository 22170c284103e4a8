"""DFA on a residual convolutional network: backpropagation inside each block, none between blocks.

python examples/residual_network.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign.nn as nn
from fastalign.papers import data


class Residual(torch.nn.Module):
    """x + f(x), f two convolutions with normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(channels, channels, 3, padding=1)
        self.normalisation = torch.nn.BatchNorm2d(channels)
        self.second = torch.nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps of the same shape."""
        return F.relu(x + self.second(F.relu(self.normalisation(self.first(x)))))


torch.manual_seed(0)
digits = data.load("digits").to("cpu", torch.float32)
network = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.Block(Residual(16)),  # the error reaches its output through a fixed matrix
    nn.MaxPool2d(2),
    nn.Block(Residual(16)),
    nn.Flatten(),
    nn.Linear(256, 10),
    rule="dfa",
    input_shape=(1, 8, 8),
)
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
for _ in range(5):
    for batch in torch.randperm(len(digits.train)).split(32):
        loss = F.cross_entropy(network(digits.train.images[batch]), digits.train.labels[batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

network.eval()
wrong = (network(digits.test.images).argmax(1) != digits.test.labels).float().mean().item()
print(f"test error {100 * wrong:.2f} %")
