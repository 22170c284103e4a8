from __future__ import annotations

from pathlib import Path

import pytest

from fastalign.analysis import fit_plateau
from fastalign.errors import RunError
from fastalign.papers import read_metrics
from fastalign.papers.runs.metrics import Metrics, MetricsLog


def test_the_epochs_of_a_run_come_back_from_its_folder_or_its_file(tmp_path: Path) -> None:
    accuracies = [98 * t / (0.05 + t) for t in range(1, 40)]
    history = [Metrics(t, 0.5, 2.5, 100 - accuracy, 0.25, 0.1) for t, accuracy in enumerate(accuracies, start=1)]
    for metrics in history:
        MetricsLog(tmp_path / "metrics.jsonl").append(metrics)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 40, "tr')  # of a run that is at work
    epochs = read_metrics(tmp_path)
    assert epochs == history == read_metrics(str(tmp_path / "metrics.jsonl"))
    assert fit_plateau([100 - epoch.test_error for epoch in epochs]).slowness == pytest.approx(0.05, rel=0.1)


def test_where_there_is_no_run_it_is_said(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(
            RunError, match=r"path: expected the folder of a run or its metrics\.jsonl, but there is no"
        ):
            read_metrics(path)
