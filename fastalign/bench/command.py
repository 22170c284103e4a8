"""`fastalign bench`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from fastalign.bench import against, process
from fastalign.bench.atomic import write_atomically
from fastalign.bench.plan import GROUPS, Plan
from fastalign.bench.plots import plots
from fastalign.bench.quiet import benchmark_lock, wait_until_quiet
from fastalign.bench.tables import builds, comparison_table, origin, tables
from fastalign.errors import RunError, import_optional


def bench(options: argparse.Namespace) -> int:
    """Measure while no training run does, print the tables, write the result and the plots, and return the exit code.

    That is 1 where a row of this build is slower than the other build's.

    Raises:
        UserError: a package, a device, a build or a folder is missing, the machine is busy, or a process failed.
    """
    if options.against is not None and options.plots is not None:
        raise RunError("--plots: a comparison with --against has none, expected one of the two")
    if options.of is not None and options.against is None:
        raise RunError("--of: names the build that is compared, expected --against with it")
    if options.plots is not None:
        import_optional("matplotlib", "--plots")
    plan = plan_of(options)
    with benchmark_lock(_say, waits=not options.even_if_busy):
        if options.against is None:
            _measure(plan, options)
            return 0
        if not options.even_if_busy:
            wait_until_quiet(_say)
        return _compare(plan, options)


def _measure(plan: Plan, options: argparse.Namespace) -> None:
    result = process.run(plan, _tell, lambda result: _keep(result, options.json))
    _tell("")
    print("\n\n".join([origin(result), *(table.for_terminal() for table in tables(result))]))
    if options.plots is not None:
        _folder(options.plots)
        for name, image in plots(result).items():
            write_atomically(options.plots / f"{name}.png", image)


def _compare(plan: Plan, options: argparse.Namespace) -> int:
    result = against.run(plan, options.against, options.of, _tell, lambda result: _keep(result, options.json))
    _tell("")
    rows = result["rows"]
    print("\n\n".join([origin(result), builds(result), comparison_table(rows).for_terminal()]))
    for which in ("old", "new"):
        if only := result[f"only_{which}"]:
            print(f"\nonly in the {which} build: {'; '.join(only)}")
    slower = sum(row["verdict"] == "slower" for row in rows)
    moved = sum(bool(row["control"]["verdict"]) for row in rows if "control" in row)
    print(f"\n{slower} of {len(rows)} rows slower, over {result['pairs']} pairs")
    if moved:
        print(f"the control of {moved} rows differs, though both builds run the same there: the machine was not quiet")
    return 1 if slower else 0


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
    if options.against is not None:
        return plan.for_comparison(options.processes or against.PAIRS)
    if options.processes is not None:
        plan = plan.with_processes(options.processes)
    return plan.with_processes(1) if groups == ("memory",) else plan


def _keep(result: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        _folder(path.parent)
        write_atomically(path, (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())


def _folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"the folder {path} cannot be made: {error.strerror}") from error


def _say(text: str) -> None:
    print(f"fastalign: {text}", file=sys.stderr, flush=True)


def _tell(text: str) -> None:
    """Where it is, on the last line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:100]}", end="", file=sys.stderr, flush=True)
