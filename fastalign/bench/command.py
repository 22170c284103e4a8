"""`fastalign bench`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from fastalign.bench.plan import GROUPS, Plan
from fastalign.bench.plots import plots
from fastalign.bench.process import run
from fastalign.bench.tables import origin, tables
from fastalign.errors import RunError, import_optional
from fastalign.training.atomic import write_atomically


def bench(options: argparse.Namespace) -> None:
    """Measure, print the tables, write the result and the plots.

    Raises:
        UserError: a package, a device or a folder is missing, or a process failed.
    """
    if options.plots is not None:
        import_optional("matplotlib", "--plots")
    plan = plan_of(options)

    def keep(result: dict[str, Any]) -> None:
        if options.json is not None:
            _folder(options.json.parent)
            write_atomically(options.json, (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())

    result = run(plan, _tell, keep)
    _tell("")
    print("\n\n".join([origin(result), *(table.for_terminal() for table in tables(result))]))
    if options.plots is not None:
        _folder(options.plots)
        for name, image in plots(result).items():
            write_atomically(options.plots / f"{name}.png", image)


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options ask for.

    Raises:
        RunError: there is no such device, or a number of processes or threads is not one.
    """
    for name in ("processes", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise RunError(f"--{name}: expected a number of at least 1, got {value}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise RunError("--device: torch sees no CUDA device")
    groups = GROUPS if options.group is None else (options.group,)
    plan = Plan(groups=groups, device=options.device, threads=options.threads or torch.get_num_threads())
    if options.quick:
        plan = plan.quick()
    if options.processes is not None:
        plan = plan.with_processes(options.processes)
    return plan.with_processes(1) if groups == ("memory",) else plan


def _folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"the folder {path} cannot be made: {error.strerror}") from error


def _tell(text: str) -> None:
    """Where it is, on the last line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:100]}", end="", file=sys.stderr, flush=True)
