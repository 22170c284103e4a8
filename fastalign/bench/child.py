"""One process of a benchmark: measures the rows of a build, which need not be the one that this file belongs to.

    python fastalign/bench/child.py ROOT REQUEST RESULT

ROOT is the folder that holds the build's package, REQUEST a pickled plan in builtin types, RESULT gets JSON.

Each build lays out its rows by its own `fastalign.bench`, because what they call inside the library moves from commit
to commit. Where two builds are compared, the clock in both is this file's neighbour `measure.py`, and it times only
fastalign's own variants and a control, so that both builds take the same readings. Of another build this relies on
`bench.plan.Plan` and `Network`, `bench.measure.measure`, `bench.process.rows_of` and `bench.environment.describe`.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

TOLD = "fastalign-bench: "
"""The lines that begin with this tell where the process is."""
CONTROLS = ("BP by torch", "floor")
"""Variants that run none of fastalign's code: what they do is the same in every build."""

HERE = Path(__file__).resolve().parent
Measure = Callable[..., dict[str, list[float]]]


def is_own(variant: str) -> bool:
    """Whether a variant runs fastalign's code."""
    return "fastalign" in variant or variant in ("store", "recompute")


def main(arguments: Sequence[str]) -> None:
    """Measure, and write the build's description and its rows."""
    root, request_file, result_file = map(Path, arguments)
    _import_from(root)
    import torch

    request = pickle.loads(request_file.read_bytes())
    if request["compares"]:
        from fastalign.bench import measure

        measure.measure = _compared(_own_clock())  # before the modules that take it from there are imported
    from fastalign.bench import environment, process

    plan = _plan_of(request["plan"])
    torch.set_num_threads(plan.threads)
    torch.manual_seed(request["seed"])
    rows = process.rows_of(plan, lambda text: print(TOLD + text, flush=True))
    result_file.write_text(json.dumps({"build": environment.describe(), "rows": rows}))


def _import_from(root: Path) -> None:
    """Let `fastalign` be the package in this folder, whatever the current folder or the environment hold."""
    sys.path[:] = [str(root), *(entry for entry in sys.path if Path(entry or ".").resolve() != HERE)]
    import fastalign

    found = Path(fastalign.__file__).resolve().parents[1]
    if found != root.resolve():
        raise SystemExit(f"expected the fastalign of {root}, got that of {found}")


def _own_clock() -> Measure:
    """The `measure` beside this file, which needs nothing but torch."""
    spec = spec_from_file_location("fastalign_clock", HERE / "measure.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    clock: Measure = module.measure
    return clock


def _compared(measure: Measure) -> Measure:
    """The clock, but of a row with own variants it times those and the control alone."""

    def compared(variants: Mapping[str, Any], *how: Any) -> dict[str, list[float]]:
        if any(map(is_own, variants)):
            variants = {name: run for name, run in variants.items() if is_own(name) or name in CONTROLS}
        return measure(variants, *how)

    return compared


def _plan_of(data: Mapping[str, Any]) -> Any:
    """The build's own plan, from what `Plan.as_plain_data` gave."""
    from fastalign.bench.plan import Network, Plan

    given = dict(data)
    if "networks" in given:
        given["networks"] = tuple(Network(**network) for network in given["networks"])
    if "middle" in given:
        given["middle"] = Network(**given["middle"])
    return Plan(**given)


if __name__ == "__main__":
    main(sys.argv[1:])
