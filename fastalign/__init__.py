"""Fused kernels for learning without backpropagation, as ordinary PyTorch layers."""

from fastalign import nn, ops, rules
from fastalign._version import __version__
from fastalign.convert import convert
from fastalign.initialisation import initialise

__all__ = ["__version__", "convert", "initialise", "nn", "ops", "rules"]
