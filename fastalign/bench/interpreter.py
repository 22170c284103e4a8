"""Other interpreters that run modules of this package."""

from __future__ import annotations

import os
import sys


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module as `python -m` does, with the modules that this process would import.

    `-m` alone would look for modules in the current folder first, and run files there as Python code.
    """
    start = f"import sys; sys.path[:] = {[*map(os.path.abspath, sys.path)]!r}; import runpy"
    return [sys.executable, "-c", f"{start}; runpy.run_module({module!r}, None, '__main__', True)", *arguments]
