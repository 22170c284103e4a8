"""Share the batches between two processes: DistributedDataParallel, as for any other network.

torchrun --standalone --nproc-per-node 2 examples/two_processes.py
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import fastalign.nn as nn
from fastalign.papers import data


def train() -> None:
    torch.manual_seed(0)
    digits = data.load("digits").to("cpu", torch.float32).flatten()
    hidden = [nn.Linear(64, 128, activation="tanh"), nn.Linear(128, 128, activation="tanh")]
    network = nn.Sequential(*hidden, nn.Linear(128, 10), rule="pepita")
    parallel = DistributedDataParallel(network)  # weights and fixed matrices are those of the first process
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    dataset = TensorDataset(digits.train.images, digits.train.labels)
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(dataset)
    for epoch in range(10):
        sampler.set_epoch(epoch)
        for x, y in DataLoader(dataset, batch_size=16, sampler=sampler):
            F.cross_entropy(parallel(x), y).backward()  # the mean of the updates of both
            optimizer.step()
            optimizer.zero_grad()

    if dist.get_rank() == 0:
        wrong = (network(digits.test.images).argmax(1) != digits.test.labels).float().mean().item()
        print(f"test error {100 * wrong:.2f} %, {dist.get_world_size()} processes")


if __name__ == "__main__":
    dist.init_process_group("gloo")
    try:
        train()
    finally:
        dist.destroy_process_group()
