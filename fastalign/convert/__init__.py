"""Make a network under a rule of an existing module."""

from fastalign.convert.conversion import convert

__all__ = ["convert"]
