"""One process or several: under torchrun each takes its part of every batch, and the updates are those of one."""

# Annotations are not postponed here: DistributedDataParallel compares those of its hook with types.
import gc
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastalign.errors import UserError, VariableError

T = TypeVar("T")


class QuietExit(SystemExit):
    """Another process reports the error."""


class Processes:
    """This process among its peers; alone, every method is the identity."""

    def __init__(self, rank: int, count: int, local_rank: int) -> None:
        self.rank = rank
        self.count = count
        self.local_rank = local_rank
        self.share_of_updates = 1.0

    @classmethod
    def from_environment(cls) -> "Processes":
        """Return what torchrun's variables RANK, WORLD_SIZE and LOCAL_RANK say; without them, one process.

        Raises:
            VariableError: one of them has another value than torchrun gives it, or is missing beside the others.
        """
        count = _variable("WORLD_SIZE", 1, least=1)
        if count > 1:
            for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
                if not os.environ.get(name):
                    raise VariableError(f"{name} is not set beside WORLD_SIZE={count}, as torchrun sets it")
        rank = _variable("RANK", 0, most=count - 1)
        return cls(rank, count, _variable("LOCAL_RANK", 0, most=count - 1))

    @classmethod
    def alone(cls) -> "Processes":
        """One process."""
        return cls(0, 1, 0)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Join the process group for the time of the block."""
        if self.count == 1:
            yield
            return
        with_cuda = torch.cuda.is_available() and dist.is_nccl_available()
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if with_cuda else "gloo")
        except (ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"the processes that torchrun started do not find each other: {reason}") from error
        try:
            yield
        finally:
            # A DistributedDataParallel that outlives its group aborts the process at its exit.
            gc.collect()
            dist.destroy_process_group()

    def shard(self, samples: Tensor) -> Tensor:
        """This process's part of the samples along the first dimension."""
        return samples if self.count == 1 else samples.tensor_split(self.count)[self.rank]

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network whose backward pass adds up the updates of all processes, each times its `share_of_updates`.

        That is to be set before each step: its part of the batch where the loss is a mean, 1 where it is a sum.
        """
        if self.count == 1:
            return network
        # The same seed drew the fixed matrices everywhere; torch 2.13 gave the option against broadcasts another name.
        names = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        option: dict[str, Any] = {name: False}
        wrapped = DistributedDataParallel(network, **option)
        wrapped.register_comm_hook(self, _weighted_sum)
        return wrapped

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is raised in any process."""
        return flag if self.count == 1 else bool(self.sum(torch.tensor(int(flag))))

    def gather(self, value: Tensor) -> list[Tensor]:
        """The value (on the CPU) of every process, in every process."""
        if self.count == 1:
            return [value]
        values = [torch.empty_like(value) for _ in range(self.count)]
        dist.all_gather(values, value)
        return values

    def on_first(self, action: Callable[[], T]) -> T:
        """The result of an action that only the first process carries out; its UserError ends all of them."""
        if self.count == 1:
            return action()
        outcome: list[T | UserError | None] = [None]
        if self.is_first:
            try:
                outcome = [action()]
            except UserError as error:
                outcome = [error]
        dist.broadcast_object_list(outcome)
        result = outcome[0]
        if isinstance(result, UserError):
            raise result if self.is_first else QuietExit(2)
        return result  # type: ignore[return-value]


def _variable(name: str, default: int, *, least: int = 0, most: int = 2**31) -> int:
    """A whole number in an environment variable."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or not least <= int(text) <= most:
        raise VariableError(f"{name} is {text!r}, expected a whole number from {least} to {most}")
    return int(text)


def _weighted_sum(processes: Processes, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    updates = bucket.buffer().mul_(processes.share_of_updates)
    work = dist.all_reduce(updates, async_op=True)
    summed: torch.futures.Future[Tensor] = work.get_future().then(lambda future: future.value()[0])
    return summed
