"""`fastalign bench ops`: every op on its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch

from fastalign.bench.cases import Case, all_cases
from fastalign.bench.measure import Run, measure, name_of, speeds
from fastalign.bench.plan import Plan

RIVALS = ("floor", "plain PyTorch", "torch.compile", "best known")


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """A row for each op, shape and dtype."""
    rates = speeds(plan.device, plan.dtypes)
    yield {"group": "ops", "speeds": rates}
    for dtype in plan.dtypes:
        with torch.no_grad():
            for case, compiled in all_cases(plan, dtype):
                yield row_of(case, plan, dtype, rates[name_of(dtype)], compiled)


def row_of(case: Case, plan: Plan, dtype: torch.dtype, rate: float, compiled: bool) -> dict[str, Any]:
    """The times of a case's variants. rate: of the library's products, in operations a second."""
    variants: dict[str, Run] = {
        "fastalign": case.run,
        "floor": case.floor,
        "plain PyTorch": lambda: case.plain(*case.arguments),
    }
    if compiled:
        torch._dynamo.reset()
        function = torch.compile(case.plain, dynamic=False)
        try:
            function(*case.arguments)
        except torch._dynamo.exc.TorchDynamoException as error:  # of the C++ compiler, which not every one can please
            warnings.warn(f"{case.op}: not measured against torch.compile, which failed: {error!r:.200}", stacklevel=2)
        else:
            variants["torch.compile"] = lambda: function(*case.arguments)
    if case.best is not None:
        variants["best known"] = case.best
    variants |= {**case.beside, **case.parts}
    times = measure(variants, plan.device, plan.seconds, plan.rounds)
    least = case.arithmetic / rate * 1e6
    times["floor"] = [max(time, least) for time in times["floor"]]
    return {
        "group": "ops",
        "op": case.op,
        "shape": case.shape,
        "dtype": name_of(dtype),
        "best_known": case.best_name if case.best is not None else None,
        "bytes": case.bytes,
        "operations": case.operations or case.arithmetic,
        "parts": list(case.parts),
        "times": times,
    }
