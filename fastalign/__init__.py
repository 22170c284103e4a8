"""Fused kernels for learning without backpropagation, as ordinary PyTorch layers."""

from fastalign import nn, ops, rules
from fastalign._version import __version__
from fastalign.convert import convert
from fastalign.rules.initialisation import initialise
from fastalign.step.train_step import TrainStep

__all__ = ["TrainStep", "__version__", "convert", "initialise", "nn", "ops", "rules"]
