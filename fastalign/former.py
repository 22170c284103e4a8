"""Modules that can still be imported by the names that they had before."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module


def alias(former: str, present: str) -> None:
    """Let a module be imported by its former name, and warn with its present one."""
    warnings.warn(f"{former} is now {present}; the former name goes with the next release", DeprecationWarning, 3)
    sys.modules[former] = import_module(present)
