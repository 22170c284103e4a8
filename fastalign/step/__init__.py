"""`TrainStep`: a training step without autograd, with the optimizer's step fused into the updates."""

from fastalign.step.losses import REDUCTIONS, Loss, loss_named
from fastalign.step.train_step import TrainStep

__all__ = ["REDUCTIONS", "Loss", "TrainStep", "loss_named"]
