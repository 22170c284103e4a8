"""Runs a plan in fresh interpreters, one after the other, and puts together what they found."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from fastalign.bench import child, environment, memory, ops, scaling, steps
from fastalign.bench.plan import Plan
from fastalign.bench.summary import merge
from fastalign.errors import RunError

Rows = list[dict[str, Any]]
THIS_BUILD = Path(__file__).resolve().parents[2]
"""The folder that holds this package."""
_GROUPS: dict[str, Callable[[Plan], Iterator[dict[str, Any]]]] = {
    "ops": ops.rows,
    "steps": steps.rows,
    "memory": memory.rows,
    "scaling": scaling.rows,
}


def run(plan: Plan, tell: Callable[[str], None], keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The result: where it was measured, and the rows. `keep` is given what there is after every process.

    Raises:
        RunError: a process failed.
    """
    torch.set_num_threads(plan.threads)
    described = {**environment.describe(), "device": plan.device}
    found: list[Rows] = []
    result: dict[str, Any] = {}
    for number in range(plan.processes):
        tell(f"process {number + 1} of {plan.processes}")
        asked = plan if number == 0 else plan.without_memory()
        found.append(in_a_process(THIS_BUILD, asked, number, tell)["rows"])
        result = {**described, "processes": len(found), **merge(found)}
        keep(result)
    return result


def in_a_process(
    root: Path, plan: Plan, seed: int, tell: Callable[[str], None], *, compares: bool = False
) -> dict[str, Any]:
    """The description and the rows of the build in a folder, measured in a fresh interpreter by `child`.

    compares: whether only fastalign's own variants and the control of each row are measured.

    Raises:
        RunError: the process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        request_file, result_file = Path(folder, "request"), Path(folder, "result")
        request_file.write_bytes(pickle.dumps({"plan": plan.as_plain_data(), "seed": seed, "compares": compares}))
        # NOTE: a script by its path, since `-m` would let a `fastalign` in the current folder come first.
        command = [sys.executable, child.__file__, str(root), str(request_file), str(result_file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            said = []
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(child.TOLD):
                    tell(line.removeprefix(child.TOLD).rstrip())
                else:
                    said.append(line)
        if process.returncode:
            raise RunError(f"a process of the benchmark ended with {process.returncode}:\n{''.join(said[-30:])}")
        result: dict[str, Any] = json.loads(result_file.read_text())
    return result


def rows_of(plan: Plan, tell: Callable[[str], None]) -> Rows:
    """All that a plan asks for, measured in this process."""
    found: Rows = []
    for group in plan.groups:
        for row in _GROUPS[group](plan):
            found.append(row)
            tell(f"{group}: {row.get('op', 'speed of the machine')} {row.get('shape', '')} {row.get('dtype', '')}")
    return found
