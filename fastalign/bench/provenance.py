"""Where and of what a result was made: it stands beside every result that is kept."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import TypedDict

import torch

from fastalign._version import __version__

NO_PROGRAMS = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
"""Options of git without which a repository's configuration could have it start programs."""


class Machine(TypedDict):
    """What computed."""

    processor: str
    cores: int | None
    system: str


class Provenance(TypedDict):
    """What `describe` tells."""

    machine: Machine
    torch: str
    threads: int
    fastalign: str
    commit: str | None
    uncommitted_changes: bool | None


def describe() -> Provenance:
    """Machine, versions, and the commit of the sources where they are a checkout; ready for JSON."""
    changes = _git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
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
    """What git says of this package's folder; None without git, or where the folder is not in its care.

    The first question is asked of whatever repository there is, the second only of one that holds this file, and so
    code that is running already. Neither lets the repository's configuration start a program.
    """
    package = Path(__file__).parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    answer = ""
    for question in (("ls-files", "--error-unmatch", __file__), arguments):
        command = ["git", *NO_PROGRAMS, *question]
        try:
            answer = subprocess.run(
                command, cwd=package, env=environment, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None
    return answer
