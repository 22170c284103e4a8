"""Prints the active environment's folder, if it has a torch on which fastalign runs and takes packages."""

import importlib.metadata
import sys
import sysconfig
from pathlib import Path

OLDEST = (2, 11)


def suits() -> bool:
    """Whether fastalign can be installed beside this Python's torch."""
    in_environment = sys.prefix != sys.base_prefix
    if not in_environment and Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists():
        return False
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(map(int, version.split(".")[:2])) >= OLDEST


if suits():
    print(sys.prefix)
