"""Runs every op once in every dtype at odd sizes, for CUDA's compute-sanitizer to look on: no kernels but the ops' own.

compute-sanitizer --tool memcheck --error-exitcode 1 python every_op.py
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["FASTALIGN_FORCE"] = "fused"
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import gpu
from cases import CASES, DTYPES, WITH_DROPOUT, Options, Size, arguments, call


def main() -> None:
    """Runs them, and reads the results."""
    why = gpu.missing()
    if why is not None:
        sys.exit(f"every_op: {why}")
    for size in (Size(samples=70, classes=10, units=67, inputs=66), Size(samples=5, classes=130, units=3, inputs=131)):
        for layout in ("contiguous", "misaligned"):
            for op in CASES:
                for dtype in DTYPES:
                    options = Options(dropout=0.3 if op in WITH_DROPOUT else 0.0)
                    results = call(gpu.kernel(op), op, arguments(op, dtype, size, options, layout))
                    assert all(result.isfinite().all() for result in results), (op, dtype)
    print("done")


if __name__ == "__main__":
    main()
