"""Where and of what a result was measured: it stands at the top of every result file."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import fastalign
from fastalign import info


def describe() -> dict[str, Any]:
    """Machine, software, commit and command, as JSON-able values."""
    folder = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "fastalign": fastalign.__version__,
        "in_use": _without_places(info.collect()),
        "commit": commit.stdout.strip(),
        "uncommitted_changes": bool(changed.stdout.strip()),
        "command": shlex.join(["python", *(Path(a).name if Path(a).is_absolute() else a for a in sys.argv)]),
    }


def _without_places(collected: dict[str, Any]) -> dict[str, Any]:
    """What is in use, but not where this machine keeps it."""
    return {**collected, "binary": {k: v for k, v in collected["binary"].items() if k != "file"}}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
