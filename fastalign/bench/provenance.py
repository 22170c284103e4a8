"""Where and of what a result was made: it stands beside every result that is kept."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from fastalign._version import __version__


def describe() -> dict[str, Any]:
    """Machine, versions, and the commit of the sources where they are a checkout; ready for JSON."""
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "fastalign": __version__,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
    }


def _processor() -> str:
    cpu = Path("/proc/cpuinfo")
    for line in cpu.read_text().splitlines() if cpu.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _git(*arguments: str) -> str | None:
    """What git says of this package's folder; None without git, or where the folder is not in its care."""
    package = Path(__file__).parent
    try:
        subprocess.run(["git", "ls-files", "--error-unmatch", __file__], cwd=package, capture_output=True, check=True)
        return subprocess.run(
            ["git", *arguments], cwd=package, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
