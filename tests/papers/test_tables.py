from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from fastalign.bench.quiet import benchmark_lock
from fastalign.papers.experiments import EXPERIMENTS, experiment
from fastalign.papers.experiments.published import BP, DFA, TABLES, Published, Table
from fastalign.papers.reproduce.figure import Figure
from fastalign.papers.reproduce.figures import FIGURES
from fastalign.papers.reproduce.jobs import jobs_of
from fastalign.papers.reproduce.live import _Lines, _LiveTable
from fastalign.papers.reproduce.render import as_csv, as_markdown, as_text
from fastalign.papers.reproduce.result import Histories, cell
from fastalign.papers.runs.metrics import Metrics, MetricsLog
from fastalign.papers.runs.side_by_side import Queue

MLP = "pepita/mnist-fc"
TABLE = Table(
    "T",
    "A table",
    "accuracy",
    (BP, DFA),
    {
        MLP: {"bp": Published.read("98.00 ± 0.10", from_memory=False)},
        "nokland/mnist-1x800-tanh": {
            "bp": Published.read("no convergence", from_memory=True),
            "dfa": Published.read("98.5 ± 0.05 (0.03)", from_memory=True),
        },
    },
)


def epochs_of(*test_errors: float, train_error: float = 1.0) -> list[Metrics]:
    """Epochs with these test errors, two seconds each."""
    return [Metrics(i + 1, 0.1, train_error, error, 2.0, 0.1) for i, error in enumerate(test_errors)]


def test_every_row_is_an_experiment_and_every_column_one_of_its_rules() -> None:
    for table in TABLES.values():
        for name, published in table.rows.items():
            rules = EXPERIMENTS[name].rules
            assert {column.rule for column in table.columns} == set(rules)
            assert published.keys() <= {column.name for column in table.columns}
    tables = [name for table in TABLES.values() for name in table.rows]
    figures = {name for figure in FIGURES.values() for name, _ in figure.cells}
    assert len(set(tables)) == len(tables)
    assert figures | set(tables) == set(EXPERIMENTS)


def test_published_cells_and_which_of_them_are_from_memory() -> None:
    dropout = TABLES["A1"].rows["nokland/mnist-2x800-tanh-dropout"]["dfa"]
    assert (dropout.mean, dropout.deviation, dropout.train_error, dropout.from_memory) == (1.45, 0.07, 0.24, True)
    assert TABLES["A1"].rows["nokland/mnist-100x240-tanh"]["bp"].mean is None
    assert TABLES["A-IFA"].rows["nokland/mnist-4x100-tanh"]["ifa"] == Published("3.9", 3.9)
    pepita = TABLES["B1"].rows["pepita/cifar10-conv"]["pepita"]
    assert (pepita.mean, pepita.deviation, pepita.from_memory) == (56.33, 1.35, False)
    assert [table.is_from_memory for table in TABLES.values()] == [True, True, True, False, False]
    assert all(len(row) == 3 for name in ("A1", "A2", "A3") for row in TABLES[name].rows.values())
    assert all(row.keys() == {"bp", "fa", "drtp", "pepita"} for row in TABLES["B1"].rows.values())


@pytest.mark.parametrize(
    ("last_errors", "verdict"),
    [
        ((2.1,), "within"),  # 97.9 against 98.00 ± 0.10
        ((2.3,), "outside"),
        ((2.2, 2.4), "within"),  # 97.7 ± 0.14: the joint deviation is 0.17
        ((2.5, 2.7), "outside"),
    ],
)
def test_a_full_run_is_within_twice_the_joint_deviation_or_outside(
    last_errors: tuple[float, ...], verdict: str
) -> None:
    recipe = experiment(MLP)
    runs = [epochs_of(*[50.0] * 99, error) for error in last_errors]
    found = cell(TABLE, recipe, BP, {(MLP, "bp"): runs})
    assert found.verdict == verdict
    assert found.mean == pytest.approx(100 - sum(last_errors) / len(last_errors))
    assert found.difference == pytest.approx(found.mean - 98)
    shorter = cell(TABLE, recipe, BP, {(MLP, "bp"): [*runs, epochs_of(2.0)]})
    assert shorter.verdict == "short"
    assert shorter.epochs == (1, 100)


def test_a_run_that_stopped_at_its_training_error_is_full() -> None:
    name = "nokland/mnist-1x800-tanh"
    histories = {(name, "dfa"): [epochs_of(5.0, 1.5, train_error=0.01)]}
    assert cell(TABLE, experiment(name), DFA, histories).verdict == "within"
    assert "| 2 of 300, 1 seed, stopped at ≤ 0.01 % training error |" in as_markdown(TABLE, histories)
    histories[name, "dfa"].append(epochs_of(5.0, 1.5))
    assert "| 2 of 300, 2 seeds, 1 stopped at ≤ 0.01 % training error |" in as_markdown(TABLE, histories)
    histories[name, "dfa"].append(epochs_of(*[1.5] * 300, train_error=0.01))  # at the last epoch anyway
    assert cell(TABLE, experiment(name), DFA, histories).stopped == 1


def test_the_training_error_stands_in_brackets_beside_errors_and_after_fewer_epochs_where_asked_for() -> None:
    (name,) = TABLES["A-IFA"].rows
    runs = [[*epochs_of(*[3.25] * 100, train_error=0.75 + seed), *epochs_of(3.5, train_error=0.125)] for seed in (0, 1)]
    lines = as_markdown(TABLES["A-IFA"], {(name, "ifa"): [*runs, epochs_of(3.5, train_error=0.125)]}).splitlines()
    assert lines[4] == "| mnist-4x100-tanh | ours | 3.50 ± 0.00 (0.12) |"
    assert lines[5] == "|  | after 100 epochs | 3.25 ± 0.00 (1.25) |"  # of the runs that have come so far
    assert "after 100 epochs |  |" in as_markdown(TABLES["A-IFA"], {(name, "ifa"): [epochs_of(3.5)]})
    (row,) = csv.DictReader(io.StringIO(as_csv(TABLES["A-IFA"], {(name, "ifa"): runs})))
    assert (row["train_error"], row["stopped_early"]) == ("0.1250", "0")
    assert "(" not in as_markdown(TABLE, {(MLP, "bp"): [epochs_of(3.0)]}).splitlines()[4]  # an accuracy


def test_a_cell_without_runs_or_without_a_published_mean_has_no_difference() -> None:
    recipe = experiment("nokland/mnist-1x800-tanh")
    assert cell(TABLE, recipe, BP, {}).difference is None
    found = cell(TABLE, recipe, BP, {(recipe.name, "bp"): [epochs_of(90.0)]})
    assert (found.mean, found.difference, found.verdict) == (10.0, None, "")


HISTORIES: Histories = {
    (MLP, "bp"): [epochs_of(3.0, 2.2), epochs_of(3.0, 2.4)],
    ("nokland/mnist-1x800-tanh", "bp"): [[]],
    ("nokland/mnist-1x800-tanh", "dfa"): [epochs_of(1.5)],
}


def test_the_table_for_a_terminal() -> None:
    title, first_block, second_block, notes = as_text(TABLE, HISTORIES).split("\n\n")
    header, *first = first_block.splitlines()
    second = second_block.splitlines()
    assert title == "A table, test accuracy (%), mean ± standard deviation over seeds"
    assert header.split() == ["BP", "DFA"]
    assert [line.split("  ")[-1].strip() for line in first] == [
        "97.70 ± 0.14",
        "2 of 100, 2 seeds",
        "98.00 ± 0.10",
        "−0.30 short",
    ]
    assert "no run" in second[0]
    assert "98.50" in second[0]
    assert "no convergence †" in second[2]
    assert "98.5 ± 0.05 (0.03) †" in second[2]
    assert "+0.00 short" in second[3]
    assert "† from memory" in notes
    assert "in brackets" not in notes


def test_markdown_and_csv_hold_the_same_numbers() -> None:
    lines = as_markdown(TABLE, HISTORIES).splitlines()
    assert lines[2] == "|  |  | BP | DFA |"
    assert lines[4] == "| mnist-fc | ours | 97.70 ± 0.14 |  |"
    assert all(line.count("|") == 5 for line in lines[2:12])
    rows = list(csv.DictReader(io.StringIO(as_csv(TABLE, HISTORIES))))
    assert [(row["experiment"], row["column"]) for row in rows] == list(HISTORIES)
    assert rows[0]["ours"] == "97.7000"
    assert rows[0]["deviation"] == "0.1414"
    assert rows[0]["difference"] == "-0.3000"
    assert (rows[1]["ours"], rows[1]["published"], rows[1]["published_from_memory"]) == ("", "", "true")
    assert (rows[2]["published"], rows[2]["published_train_error"]) == ("98.5000", "0.0300")


def test_the_live_table_shows_epochs_value_and_time_left_of_each_cell(tmp_path: Path) -> None:
    jobs = jobs_of(TABLES["B1"], rows=["mnist-fc"], columns=["bp", "pepita"], seeds=2, epochs=10, out=tmp_path)
    first = jobs[0]
    first.folder.path.mkdir(parents=True)
    log = MetricsLog(first.folder.metrics.path)
    for metrics in epochs_of(5.0, 3.0, 2.5):
        log.append(metrics)
    queue = Queue(jobs, 2)
    header, row, summary = _LiveTable(TABLES["B1"], queue).lines()
    assert header.split() == ["BP", "PEPITA"]
    # 17 of 20 epochs are missing, of two seconds each.
    assert row.split() == ["mnist-fc", "3/20", "97.50", "0:34", "waiting"]
    assert "0 of 4 done, 0 at work" in summary
    queue.failures[jobs[1]] = "no memory"
    header, row, summary = _LiveTable(TABLES["B1"], queue).lines()
    assert row.split()[-1] == "failed"
    assert summary.endswith("1 failed")


def test_it_is_shown_that_runs_wait_for_a_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    jobs = jobs_of(TABLES["B1"], rows=["mnist-fc"], columns=["bp"], seeds=1, epochs=1, out=tmp_path)
    queue = Queue(jobs, 1)
    table, lines = _LiveTable(TABLES["B1"], queue), _Lines(TABLES["B1"], queue)
    with benchmark_lock(print):
        for _ in range(2):
            lines.show()
        assert table.lines()[-1].endswith(", waiting for a benchmark")
    lines.show()
    assert capsys.readouterr().out == "waiting for a benchmark\n"
    assert "waiting for" not in table.lines()[-1]


def test_frozen_filters_are_a_column_of_convolutional_rows_only(tmp_path: Path) -> None:
    jobs = jobs_of(TABLES["B1"], rows=None, columns=["pepita-frozen"], seeds=1, epochs=None, out=tmp_path)
    assert [job.row for job in jobs] == ["mnist-conv", "cifar10-conv", "cifar100-conv"]
    assert all(job.column.freeze_filters and job.epochs == 100 for job in jobs)


def test_three_seeds_are_usual_but_where_one_is_drawn(tmp_path: Path) -> None:
    def seeds(target: Table | Figure, given: int | None) -> set[int]:
        jobs = jobs_of(target, rows=None, columns=None, seeds=given, epochs=None, out=tmp_path)
        return {job.seed for job in jobs}

    targets: list[Table | Figure] = [*TABLES.values(), *FIGURES.values()]
    for target in targets:
        assert seeds(target, None) == ({0} if target.name == "A-tsne" else {0, 1, 2})
    assert seeds(FIGURES["A-tsne"], 2) == {0, 1}


def test_the_first_seed_of_every_cell_comes_before_the_second_of_any(tmp_path: Path) -> None:
    jobs = jobs_of(TABLES["A1"], rows=None, columns=None, seeds=2, epochs=None, out=tmp_path)
    assert [job.seed for job in jobs] == [0] * 30 + [1] * 30
    assert len({job.folder.path for job in jobs}) == 60
