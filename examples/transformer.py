"""DFA on a small transformer: the rows of an image are its words, and each encoder block learns by itself.

python examples/transformer.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign.nn as nn
from fastalign.papers import data


class Words(torch.nn.Module):
    """A vector for each row of an image, and its place."""

    def __init__(self, rows: int, pixels: int, width: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Linear(pixels, width)
        self.places = torch.nn.Parameter(0.1 * torch.randn(rows, width))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1, rows, pixels) → (N, rows, width)."""
        return self.embedding(images.squeeze(1)) + self.places


def encoder() -> torch.nn.Module:
    """Attention and a small network, each with normalisation before it and a way around it."""
    return torch.nn.TransformerEncoderLayer(
        32, nhead=4, dim_feedforward=64, dropout=0.0, batch_first=True, norm_first=True
    )


torch.manual_seed(0)
digits = data.load("digits").to("cpu", torch.float32)
network = nn.Sequential(
    nn.Block(Words(8, 8, 32)),
    nn.Block(encoder()),  # backpropagation inside; the error reaches its output through a fixed matrix
    nn.Block(encoder()),
    nn.Flatten(),
    nn.Linear(8 * 32, 10),
    rule="dfa",
    input_shape=(1, 8, 8),
)
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
for _ in range(10):
    for batch in torch.randperm(len(digits.train)).split(32):
        loss = F.cross_entropy(network(digits.train.images[batch]), digits.train.labels[batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

network.eval()
wrong = (network(digits.test.images).argmax(1) != digits.test.labels).float().mean().item()
print(f"test error {100 * wrong:.2f} %")
