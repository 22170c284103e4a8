"""Rows as tables, cell by cell; what is merged, and what a plan leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tiny import TINY

from fastalign.bench.plan import Network, Plan
from fastalign.bench.steps import BP, COMPILED_BP
from fastalign.bench.summary import best_plain, merge, percentile, ratio, ratio_to_parts
from fastalign.bench.tables import figure, losses_table, tables


def variant(median: float, p10: float | None = None, p90: float | None = None) -> dict[str, Any]:
    return {
        "median_us": median,
        "p10_us": median if p10 is None else p10,
        "p90_us": median if p90 is None else p90,
        "process_medians_us": [median],
    }


OP = {"group": "ops", "op": "an_op", "shape": "8 × 4 → 2", "dtype": "float32", "bytes": 4 * 10**5, "operations": 0}
STEPS = {
    "fastalign step": variant(100.0, 90.0, 120.0),
    "floor": variant(80.0),
    "plain PyTorch, one way": variant(400.0),
    "plain PyTorch, another": variant(200.0),
    BP: variant(500.0),
    COMPILED_BP: variant(50.0),
}
STEP = {
    "group": "steps",
    "op": "dfa",
    "shape": "8-4-2, batch 3",
    "dtype": "float32",
    "operations": 10**6,
    "variants": STEPS,
}


def body(*rows: dict[str, Any]) -> Sequence[Sequence[str]]:
    (table,) = tables({"rows": rows})
    return table.body


def test_an_op() -> None:
    times = {
        "fastalign": variant(100.0, 90.0, 120.0),
        "floor": variant(50.0),
        "plain PyTorch": variant(400.0),
        "best known": variant(80.0),
    }
    ratios = ("2.00", "0.25", "", "1.25")
    assert body({**OP, "variants": times}) == [
        ("an_op", "8×4→2", "f32", "100 (90.0–120)", "4.00 GB/s", *ratios),
    ]
    assert body({**OP, "variants": times, "operations": 2 * 10**6})[0][4] == "20.0 GF/s"


def test_a_step() -> None:
    """BP by torch has lines of its own beside the rule BP only, but every rule is held to it."""
    own = ("8-4-2, N=3", "DFA", "fastalign step", "100 (90.0–120)", "10.0 GF/s", "+20", "1.25", "0.50", "0.20", "2.00")
    lines = body(STEP)
    assert lines[0] == own
    assert [line[2] for line in lines] == ["fastalign step", "floor", "plain, one way", "plain, another"]
    assert lines[1][5] == ""
    assert [line[2] for line in body({**STEP, "op": "bp"})][-2:] == [BP, "BP, compiled"]


def test_memory_and_scaling() -> None:
    memory = {"group": "memory", "op": "dfa", "shape": "4 layers", "dtype": "float32", "two_layers": 2 << 20}
    ways = {"peak_bytes": {"store": 3 << 20, "recompute": 1 << 20}}
    taken = {"variants": {"store": variant(100.0), "recompute": variant(150.0)}}
    assert body({**memory, **ways, **taken}) == [
        ("4 layers", "DFA", "store", "3.00 MiB", "1.50", "1.00"),
        ("4 layers", "DFA", "recompute", "1.00 MiB", "0.50", "1.50"),
    ]
    point = {"group": "scaling", "op": "depth", "shape": "4", "dtype": "float32", "threads": 2}
    times = {BP: variant(300.0), "dfa, fastalign step": variant(100.0)}
    assert body({**point, "variants": times}) == [("depth", "4", "2", "300", "100")]


def test_losses_are_beyond_a_twentieth_and_the_spread_the_worst_first() -> None:
    def op(shape: str, own: float, rival: float, rival_p90: float | None = None) -> dict[str, Any]:
        times = {"fastalign": variant(own), "plain PyTorch": variant(rival, p90=rival_p90), "floor": variant(1.0)}
        return {**OP, "shape": shape, "variants": times}

    rows = [
        op("by a tenth", 110.0, 100.0),
        op("by a half", 150.0, 100.0),
        op("by a twenty-fifth", 104.0, 100.0),
        op("within the spread", 150.0, 100.0, 160.0),
        STEP,  # compiled BP is faster, and computes something else
        {**STEP, "op": "bp"},
    ]
    assert [(cells[0], cells[1], cells[3], cells[4]) for cells in losses_table(rows).body] == [
        ("bp", "8-4-2, batch 3", COMPILED_BP, "2.00"),
        ("an_op", "by a half", "plain PyTorch", "1.50"),
        ("an_op", "by a tenth", "plain PyTorch", "1.10"),
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234"), (0, "0")]
)
def test_three_digits_count(value: float, text: str) -> None:
    assert figure(value) == text


def test_the_best_plain_pytorch_is_the_fastest() -> None:
    assert best_plain({"variants": STEPS}) == "plain PyTorch, another"
    assert best_plain({"variants": {"floor": variant(1.0)}}) is None


def test_an_op_beside_its_parts() -> None:
    """The parts of one process are added before the ratio is taken, and the median is of these ratios."""
    times = {"fastalign": [6.0, 20.0, 90.0], "product": [1.0, 8.0, 20.0], "δ": [2.0, 2.0, 10.0], "floor": [1.0] * 3}
    variants = {name: {"process_medians_us": values} for name, values in times.items()}
    assert ratio_to_parts({"variants": variants, "parts": ["product", "δ"]}, "fastalign") == 2.0
    assert ratio_to_parts({"variants": variants, "parts": []}, "fastalign") is None
    assert ratio_to_parts({"variants": variants}, "fastalign") is None


def test_percentiles_of_many() -> None:
    values = [float(value) for value in range(11)]
    assert [percentile(values, share) for share in (0.0, 0.1, 0.9, 1.0)] == [0.0, 1.0, 9.0, 10.0]


def test_readings_become_medians_and_spreads() -> None:
    def process(own: list[float], rival: list[float], dtype: str = "float32") -> dict[str, Any]:
        return {**OP, "dtype": dtype, "times": {"fastalign": own, "plain PyTorch": rival}}

    first, second = process([1.0, 2.0, 30.0], [1.0]), process([4.0, 4.0, 4.0, 4.0, 4.0], [8.0])
    (row,) = merge([[first], [second]])["rows"]
    own = row["variants"]["fastalign"]
    assert own["process_medians_us"] == [2.0, 4.0]
    assert own["median_us"] == 3.0  # of the processes, though one took more readings
    assert (own["p10_us"], own["p90_us"]) == (pytest.approx(1.7), pytest.approx(11.8))
    assert ratio(row, "fastalign", "plain PyTorch") == pytest.approx((2 / 1 + 4 / 8) / 2)


def test_rows_of_other_dtypes_and_threads_stay_apart() -> None:
    rows = [{**OP, "dtype": dtype, "threads": n, "times": {"fastalign": [1.0]}} for dtype in "ab" for n in (1, 2)]
    assert len(merge([rows, rows])["rows"]) == 4


def test_what_a_quick_plan_and_further_processes_leave_out() -> None:
    full, quick = Plan(), Plan().quick()
    assert max(len(network.hidden) for network in quick.networks) < max(len(n.hidden) for n in full.networks)
    assert quick.step_seconds < full.step_seconds
    for (axis, fewer), (_, values) in zip(quick.axes, full.axes, strict=True):
        assert set(fewer) < set(values), axis
    assert full.with_processes(3) == replace(full, processes=3)
    further = TINY.without_memory()
    assert "memory" in TINY.groups
    assert "memory" not in further.groups
    assert (TINY.counts_memory, further.counts_memory) == (True, False)
    assert [Network("", inputs, (8, 8)).is_convolutional for inputs in ((4,), (1, 4, 4))] == [False, True]
