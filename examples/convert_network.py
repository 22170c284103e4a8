"""Take a network of plain PyTorch as it is, and let it learn by another rule.

python examples/convert_network.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import fastalign
from fastalign.papers import data


class MyNetwork(torch.nn.Module):
    """A network as one has it lying about; nothing in it knows of fastalign."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 16, 3)
        self.hidden = torch.nn.Linear(144, 64)
        self.output = torch.nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of images (N, 1, 8, 8)."""
        x = F.max_pool2d(F.relu(self.convolution(x)), 2)
        return self.output(torch.tanh(self.hidden(x.flatten(1))))


torch.manual_seed(0)
digits = data.load("digits").to("cpu", torch.float32)
module = MyNetwork()
network = fastalign.convert(module, rule="dfa", input_shape=(1, 8, 8))
print(network)
assert torch.allclose(network(digits.test.images), module(digits.test.images), atol=1e-5)  # the same function

optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
step = fastalign.TrainStep(network, loss="cross_entropy", optimizer=optimizer)  # the loop's body in one call
for _ in range(10):
    for batch in torch.randperm(len(digits.train)).split(32):
        step.step(digits.train.images[batch], digits.train.labels[batch])

# The weights are the module's own, so that it has learnt, too.
wrong = (module(digits.test.images).argmax(1) != digits.test.labels).float().mean().item()
print(f"test error {100 * wrong:.2f} %")
