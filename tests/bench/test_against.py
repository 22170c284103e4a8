"""Two builds side by side: which rows are compared, what is called slower, and that the other build is what runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY

from fastalign.bench import against, child, command, process, quiet
from fastalign.bench.against import compare, compared
from fastalign.bench.plan import Plan
from fastalign.bench.tables import comparison_table
from fastalign.cli import main

ROOT = process.THIS_BUILD
OLD = [1000.0] * 9


def as_ratios(*ratios: float, of: float = 1000.0) -> list[float]:
    return [of * ratio for ratio in ratios]


def test_a_row_is_slower_where_the_lower_quartile_of_its_ratios_is() -> None:
    found = compare(OLD, as_ratios(0.9, 1.0, 1.04, 1.05, 1.06, 1.07, 1.08, 1.09, 2.0))
    assert found[:3] == pytest.approx((1.06, 1.04, 1.08))
    assert found.verdict == "slower"
    assert compare(OLD, as_ratios(0.9, 1.0, 1.02, 1.05, 1.06, 1.07, 1.08, 1.09, 2.0)).verdict == ""


def test_a_row_is_faster_where_the_upper_quartile_of_its_ratios_is() -> None:
    assert compare(OLD, as_ratios(0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.96, 1.2, 1.3)).verdict == "faster"
    assert compare(OLD, as_ratios(0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.98, 1.2, 1.3)).verdict == ""


def test_brief_rows_may_differ_more() -> None:
    for time, verdict in ((199.0, ""), (200.0, "slower")):
        assert compare([time] * 9, as_ratios(*[1.05] * 9, of=time)).verdict == verdict
    assert compare([199.0] * 9, as_ratios(*[1.07] * 9, of=199.0)).verdict == "slower"


def test_ratios_are_taken_pair_by_pair() -> None:
    """A machine that slows down for some pairs slows both builds."""
    old = as_ratios(1, 1, 1, 1, 5, 5, 5, 5, 5)
    assert compare(old, [time * 1.01 for time in old]).ratio == pytest.approx(1.01)


def steps_row(op: str, **times: float) -> dict[str, Any]:
    readings = {name.replace("_", " "): [0.0, time, 9e9] for name, time in times.items()}
    return {"group": "steps", "op": op, "shape": "s", "dtype": "float32", "times": readings}


def test_own_variants_of_both_builds_are_compared_beside_the_control_of_their_row() -> None:
    old = [steps_row("dfa", fastalign_step=100, BP_by_torch=500), steps_row("gone", fastalign_step=1)]
    new = [steps_row("dfa", fastalign_step=150, fastalign_new=1, BP_by_torch=505), {"group": "ops", "speeds": {}}]
    found = compared([old] * 3, [new] * 3)
    (row,) = found["rows"]
    assert (row["op"], row["way"], row["old_us"], row["new_us"]) == ("dfa", "fastalign step", [100] * 3, [150] * 3)
    assert (row["ratio"], row["verdict"]) == (1.5, "slower")
    assert (row["control"]["way"], row["control"]["ratio"]) == ("BP by torch", pytest.approx(1.01))
    assert found["only_old"] == ["steps, gone, s, float32, fastalign step"]
    assert found["only_new"] == ["steps, dfa, s, float32, fastalign new"]


def test_the_table_fits_a_terminal() -> None:
    times = [123456.0] * 9
    key = {"op": "activation_difference, leaky_relu", "shape": "4 × (1024 × 1024 × 1024)", "dtype": "bfloat16"}
    pair = {"old_us": times, "new_us": times, **compare(times, [time * 1.05 for time in times])._asdict()}
    table = comparison_table([{**key, "group": "ops", "threads": None, "way": "fastalign", **pair, "control": pair}])
    cells = ("1.05 (1.05–1.05)", "1.05–1.05", "slower")
    assert table.body == [(key["op"], "4×(1024×1024×1024)", "bf16", "123k", "123k", *cells)]
    assert max(map(len, table.for_terminal().splitlines())) <= 120


def test_the_builds_take_turns_in_who_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def in_a_process(root: Path, plan: Plan, seed: int, *_: object, compares: bool) -> dict[str, Any]:
        assert compares
        asked.append(("new" if root == ROOT else "old", seed))
        return {"build": {"fastalign": "", "commit": None, "uncommitted_changes": None, "in_use": {}}, "rows": []}

    monkeypatch.setattr(against, "in_a_process", in_a_process)
    monkeypatch.setattr(against, "_unpacked", lambda option, build: nullcontext(build))
    old = Path("fastalign-1.0-0.b3e0fc5-py3-none-any.whl")
    result = against.run(replace(TINY, processes=3), old, None, print, print)
    assert asked == [("old", 0), ("new", 0), ("new", 1), ("old", 1), ("old", 2), ("new", 2)]
    assert result["old"]["commit"] == "b3e0fc5"


@pytest.fixture(scope="module")
def other_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this package under another version."""
    folder = tmp_path_factory.mktemp("other")
    shutil.copytree(ROOT / "fastalign", folder / "fastalign", ignore=shutil.ignore_patterns("__pycache__"))
    version = folder / "fastalign" / "_version.py"
    version.write_text(version.read_text().replace('__version__ = "', '__version__ = "99.'))
    return folder


@pytest.mark.parametrize("as_wheel", [False, True])
def test_the_command_measures_both_builds(
    other_build: Path,
    as_wheel: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In a folder whose own `fastalign` is neither of the two."""
    build, of = other_build, []
    if as_wheel:
        of = ["--of", str(other_build)]
        build = Path(shutil.make_archive(str(tmp_path / "wheel"), "zip", other_build)).rename(tmp_path / "other.whl")
    (tmp_path / "fastalign").mkdir()
    (tmp_path / "fastalign" / "__init__.py").write_text("raise ImportError('of the current folder')")
    monkeypatch.chdir(tmp_path)
    groups = ("scaling",) if as_wheel else ("steps", "memory")
    tiny = replace(TINY, groups=groups, networks=TINY.networks[:1], depths=(2,), axes=TINY.axes[:1])
    monkeypatch.setattr(command, "Plan", lambda **given: tiny)
    code = main(["bench", "--against", str(build), *of, "--processes", "1", "--even-if-busy", "--json", "result.json"])
    printed = capsys.readouterr()
    assert code in (0, 1), printed.err
    result = json.loads(Path("result.json").read_text())
    other = f"99.{result['fastalign']}"
    assert result["old"]["fastalign"] == other
    assert result["new"]["fastalign"] == (other if as_wheel else result["fastalign"])
    assert f"old: fastalign {other}, commit unknown, " in printed.out
    assert {row["group"] for row in result["rows"]} == set(groups)
    assert not result["only_old"]
    assert not result["only_new"]
    for row in result["rows"]:
        assert row["group"] == "memory" or row["control"]["way"] in child.CONTROLS
    assert code == any(row["verdict"] == "slower" for row in result["rows"])
    assert f"of {len(result['rows'])} rows slower, over 1 pairs" in printed.out


def test_both_builds_take_the_same_readings() -> None:
    """Only fastalign's own variants and the control, which take all of the time."""
    few = replace(TINY, projections=TINY.projections[:1], products=TINY.products[:1], networks=TINY.networks[:1])
    plan = replace(few, groups=("ops", "steps"), dtypes=TINY.dtypes[:1], convolutions=())
    found = process.in_a_process(ROOT, plan, 0, lambda _: None, compares=True)
    ways = {way for row in found["rows"] for way in row.get("times", {})}
    assert ways == {"fastalign", "floor", "fastalign step", "fastalign loop", "BP by torch"}


def test_a_plan_goes_to_another_build_as_plain_data() -> None:
    assert Plan().as_plain_data() == {}
    for plan in (TINY, Plan().quick()):
        assert child._plan_of(plan.as_plain_data()) == plan


def test_a_fastalign_from_elsewhere_is_refused(tmp_path: Path) -> None:
    arguments = [sys.executable, child.__file__, str(tmp_path), "request", "result"]
    done = subprocess.run(arguments, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == f"expected the fastalign of {tmp_path}, got that of {ROOT}"


def test_what_is_no_build_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--against", str(tmp_path), "--even-if-busy"]) == 2
    expected = f"--against: expected a wheel of fastalign or a folder that holds it, got {tmp_path}"
    assert expected in capsys.readouterr().err


def test_options_that_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--of", "wheel"]) == main(["bench", "--against", "wheel", "--plots", "folder"]) == 2
    said = capsys.readouterr().err
    assert "--of: names the build that is compared, expected --against with it" in said
    assert "--plots: a comparison with --against has none, expected one of the two" in said


def test_a_busy_machine_is_refused_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter(range(1000))
    loads = iter([9.0, 9.0, 0.4])
    monkeypatch.setattr(quiet.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(quiet.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(quiet.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(quiet.os, "getloadavg", lambda: (next(loads), 0.0, 0.0))
    told: list[str] = []
    quiet.wait_until_quiet(told.append)
    assert told == ["waiting for the machine's load, 9.0, to fall to 4"]

    monkeypatch.setattr(quiet.os, "getloadavg", lambda: (4.1, 0.0, 0.0))
    assert main(["bench", "--against", str(tmp_path)]) == 2
    assert "the machine is busy: its load is 4.1, expected at most 4, half its cores" in capsys.readouterr().err
    assert next(now) > quiet.PATIENCE
