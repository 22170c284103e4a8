"""Runs a plan in fresh interpreters, one after the other, and puts together what they found.

python -m fastalign.bench.process PLAN ROWS    # one of them: a pickled plan in, rows as JSON out
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fastalign.bench import environment, memory, ops, scaling, steps
from fastalign.bench.plan import Plan
from fastalign.bench.summary import merge
from fastalign.child import python_command
from fastalign.errors import RunError

Rows = list[dict[str, Any]]
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
        found.append(_in_a_process(plan if number == 0 else plan.without_memory(), number, tell))
        result = {**described, "processes": len(found), **merge(found)}
        keep(result)
    return result


def _in_a_process(plan: Plan, number: int, tell: Callable[[str], None]) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        plan_file, rows_file = Path(folder, "plan"), Path(folder, "rows")
        plan_file.write_bytes(pickle.dumps((plan, number)))
        command = python_command("fastalign.bench.process", str(plan_file), str(rows_file))
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            said = []
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(_TOLD):
                    tell(line.removeprefix(_TOLD).rstrip())
                else:
                    said.append(line)
        if process.returncode:
            raise RunError(f"a process of the benchmark ended with {process.returncode}:\n{''.join(said[-30:])}")
        rows: Rows = json.loads(rows_file.read_text())
    return rows


_TOLD = "fastalign-bench: "


def rows_of(plan: Plan, tell: Callable[[str], None]) -> Rows:
    """All that a plan asks for, measured in this process."""
    found: Rows = []
    for group in plan.groups:
        for row in _GROUPS[group](plan):
            found.append(row)
            tell(f"{group}: {row.get('op', 'speed of the machine')} {row.get('shape', '')} {row.get('dtype', '')}")
    return found


def main(arguments: Sequence[str]) -> None:
    """One process."""
    plan, number = pickle.loads(Path(arguments[0]).read_bytes())
    torch.set_num_threads(plan.threads)
    torch.manual_seed(number)
    rows = rows_of(plan, lambda text: print(_TOLD + text, flush=True))
    Path(arguments[1]).write_text(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
