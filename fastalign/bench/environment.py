"""Where, of what and by which command a result was measured: it stands at the top of every result file."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from fastalign import info
from fastalign.bench import provenance


def describe() -> dict[str, Any]:
    """Machine, software, commit and command, ready for JSON; $FASTALIGN_COMMIT where there is no checkout."""
    described = provenance.describe()
    return {
        **described,
        "commit": described["commit"] or os.environ.get("FASTALIGN_COMMIT"),
        "in_use": _without_places(info.collect()),
        "command": _command(),
    }


def _command() -> str:
    """As one would type it."""
    program = Path(sys.argv[0])
    if program.parent.name == "benchmarks":
        started = ["python", f"benchmarks/{program.name}"]
    else:
        started = ["fastalign"] if program.stem in ("fastalign", "__main__") else ["python", program.name]
    return shlex.join([*started, *(Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:])])


def _without_places(collected: dict[str, Any]) -> dict[str, Any]:
    """What is in use, but not where this machine keeps it."""
    return {**collected, "binary": {k: v for k, v in collected["binary"].items() if k != "file"}}
