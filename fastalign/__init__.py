"""Fused kernels for learning without backpropagation, as ordinary PyTorch layers."""

from fastalign._start import errors_of_the_command
from fastalign._version import __version__

with errors_of_the_command():
    from fastalign import nn, ops, rules
    from fastalign.convert import convert
    from fastalign.rules.initialisation import initialise
    from fastalign.step.train_step import TrainStep

__all__ = ["TrainStep", "__version__", "convert", "initialise", "nn", "ops", "rules"]
