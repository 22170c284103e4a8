"""`TrainStep`: a training step without autograd, with the optimizer's step fused into the updates."""

from fastalign.step.train_step import TrainStep

__all__ = ["TrainStep"]
