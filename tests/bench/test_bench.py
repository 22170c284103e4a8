"""From a plan to tables and plots, at tiny shapes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY

from fastalign.bench import command, process
from fastalign.bench.measure import measure, peak_memory
from fastalign.bench.plan import GROUPS, Plan
from fastalign.bench.plots import plots
from fastalign.bench.summary import merge, percentile, ratio
from fastalign.bench.tables import losses_table, tables
from fastalign.cli import main


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """Of a process of its own, as the command starts it."""
    kept: list[dict[str, Any]] = []
    return process.run(replace(TINY, processes=1), lambda _: None, kept.append)


def test_a_result_says_where_it_is_from(result: dict[str, Any]) -> None:
    assert result["machine"]["cores"] >= 1
    assert result["device"] == "cpu"
    assert result["processes"] == 1
    assert result["command"]
    json.dumps(result)


def test_every_group_has_rows(result: dict[str, Any]) -> None:
    assert {row["group"] for row in result["rows"]} == set(GROUPS)
    for row in result["rows"]:
        for variant in row.get("variants", {}).values():
            assert 0 < variant["p10_us"] <= variant["p90_us"]


def test_parts_are_measured_beside_the_op(result: dict[str, Any]) -> None:
    """Of each op with a target, and the parts of its own tensors: an update's term is not another's."""
    parts = {row["op"]: row["parts"] for row in result["rows"] if row.get("parts")}
    assert parts["feedback_term"] == ["bare product", "derivative"]
    assert parts["dfa_linear_update"][0] == parts["dfa_conv2d_update"][0] == "δ"
    assert parts["pepita_linear_update"][0] == parts["pepita_conv2d_update"][0] == "h − h_mod"
    for row in result["rows"]:
        assert set(row.get("parts", ())) <= row.get("variants", {}).keys()


def test_tables_are_whole(result: dict[str, Any]) -> None:
    made = tables(result)
    assert len(made) == len(GROUPS)
    assert all(len(cells) == len(table.head) for table in made for cells in table.body)


def test_tables_fit_a_terminal(result: dict[str, Any]) -> None:
    """The longest names of a full plan, with times of a machine a thousand times slower than any."""
    long = {"median_us": 12345678.9, "p10_us": 11234567.8, "p90_us": 13456789.0, "process_medians_us": [12345678.9]}
    longest = {"op": "activation_difference, leaky_relu", "shape": "4 × (1024 × 1024 × 1024)", "dtype": "bfloat16"}
    rivals = ("fastalign", "floor", "plain PyTorch", "torch.compile", "best known")
    of_ops = {"group": "ops", "bytes": 10**9, "operations": 10**15, "variants": dict.fromkeys(rivals, long), **longest}
    network = max((f"{network.name}, batch {network.samples}" for network in Plan().networks), key=len)
    slow = [of_ops]
    for row in result["rows"]:
        if row["group"] != "ops" and "variants" in row:
            ways = [*row["variants"], *(["BP by torch.compile"] if row["group"] == "steps" else [])]
            shape = {"shape": network} if row["group"] == "steps" else {}
            slow.append({**row, **shape, "operations": 10**15, "variants": dict.fromkeys(ways, long)})
    for table in tables({"rows": slow}):
        assert max(map(len, table.for_terminal().splitlines())) <= 120, table.title


def test_plots_are_images(result: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    made = plots(result)
    assert set(made) == {"roofline", "steps", "scaling"}
    assert all(image.startswith(b"\x89PNG") for image in made.values())


def test_the_command_writes_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(command, "Plan", lambda **given: replace(TINY, groups=given["groups"]))
    code = main(["bench", "memory", "--quick", "--json", f"{tmp_path}/new/r.json", "--plots", f"{tmp_path}/plots"])
    assert code == 0
    printed = capsys.readouterr().out
    assert "two layers" in printed
    assert re.match(r"cpu: .+ cores, \d+ threads; torch .+, commit .+; .+\n\nMemory: ", printed)
    assert {row["group"] for row in json.loads((tmp_path / "new" / "r.json").read_text())["rows"]} == {"memory"}


@pytest.mark.parametrize("option", ["--processes", "--threads"])
def test_numbers_below_one_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", option, "0"]) == 2
    assert f"{option}: expected a number of at least 1, got 0" in capsys.readouterr().err


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(Exception, match="axis: expected depth, width, batch or classes, got 'colour'"):
        process.run(replace(TINY, groups=("scaling",), axes=(("colour", (1,)),)), lambda _: None, lambda _: None)


def test_variants_take_turns() -> None:
    calls: list[str] = []
    measure({name: lambda name=name: calls.append(name) for name in "abc"}, "cpu", 0.0, 3)  # type: ignore[misc]
    changes = [b for a, b in pairwise(calls) if a != b]
    assert all(changes.count(name) >= 3 for name in "abc")


def test_peak_memory_counts_what_is_held_at_a_time() -> None:
    def run() -> None:
        a = torch.empty(1000)
        b = torch.empty(3000)
        del a
        torch.empty(500)
        del b

    assert peak_memory(run, "cpu") == 4 * 4000


def test_percentiles_lie_between_neighbours() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([0.0, 10.0], 0.1) == 1.0
    assert percentile([7.0], 0.9) == 7.0


def test_processes_are_merged_by_row_and_ratios_taken_within_each() -> None:
    def rows(own: float, plain: float) -> list[dict[str, Any]]:
        times = {"fastalign": [own] * 3, "plain PyTorch": [plain] * 3}
        return [{"speeds": {"float32": own}}, {"group": "ops", "op": "a", "shape": "s", "dtype": "d", "times": times}]

    merged = merge([rows(1, 2), rows(10, 20), rows(4, 2)])
    (row,) = merged["rows"]
    assert merged["speeds"] == {"float32": 4}
    assert row["variants"]["fastalign"]["median_us"] == 4
    assert row["variants"]["fastalign"]["process_medians_us"] == [1, 10, 4]
    assert ratio(row, "fastalign", "plain PyTorch") == 0.5
    assert ratio(row, "fastalign", "torch.compile") is None


def test_losses_are_told() -> None:
    def variant(time: float) -> dict[str, Any]:
        return {"median_us": time, "p10_us": time, "p90_us": time, "process_medians_us": [time]}

    row = {"group": "ops", "op": "a", "shape": "s", "dtype": "d"}
    slow = {**row, "variants": {"fastalign": variant(2), "floor": variant(1), "plain PyTorch": variant(1.5)}}
    fast = {**row, "variants": {"fastalign": variant(1), "plain PyTorch": variant(1.5)}}
    assert losses_table([slow, fast]).body == [("a", "s", "d", "plain PyTorch", "1.33")]


def test_a_full_plan_has_papers_shapes_and_four_larger_ones() -> None:
    plan = Plan()
    for shapes in (plan.projections, plan.products):
        assert len(shapes) == 8
    assert len(plan.convolutions) == 7
