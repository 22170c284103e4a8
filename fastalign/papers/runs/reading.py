"""What a run noted of its epochs."""

from __future__ import annotations

import os
from pathlib import Path

from fastalign.errors import RunError
from fastalign.papers.runs.metrics import Metrics, MetricsLog


def read_metrics(path: str | os.PathLike[str]) -> list[Metrics]:
    """The epochs of a run in order, from its folder or its `metrics.jsonl`, up to the first line that is not whole.

    Of a run that is still at work, those that it has done.

    Raises:
        RunError: there is no such file, or it cannot be read.
    """
    file = Path(path)
    if file.is_dir():
        file /= "metrics.jsonl"
    if not file.exists():
        raise RunError(f"path: expected the folder of a run or its metrics.jsonl, but there is no {file}")
    return MetricsLog(file).read()
