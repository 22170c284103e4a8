"""Puts each named fault into a copy of the sources, to see a test fail.

    python tests/faults/try.py --all              # every fault; writes noticed.json and noticed.md
    python tests/faults/try.py tanh-coefficient   # some of them, whose lines of the report are written anew

The tests that a fault is expected to fail run first, then, if they pass, all that may see it. A fault that no test
notices is an error. So is one whose test fails without it too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import cpu_faults
import cuda_faults
import emulator
import python_faults
import scratch
from fault import Fault

FAULTS = [*python_faults.FAULTS, *cpu_faults.FAULTS, *cuda_faults.FAULTS]
HERE = Path(__file__).parent
REPORT, TABLE = HERE / "noticed.json", HERE / "noticed.md"
MOST_FAILURES = 20
PATIENCE = 1800.0  # seconds of tests for one fault
LUCK = 1.5  # times its bound that an error has to be, for the test to see the fault elsewhere too
ALL_TESTS = ("tests/ops", "tests/rules", "tests/nn", "tests/convert", "tests/step", "tests/papers")


@dataclasses.dataclass
class Seen:
    """How a fault is noticed."""

    name: str
    test: str | None = None
    message: str = ""
    failures: int = 0
    expected: bool = True
    """Whether it is by the tests that were expected to notice."""
    times_bound: float | None = None
    """How far the largest error is beyond its bound; None where a test does not bound errors but finds others."""
    seconds: float = 0.0

    @property
    def by_luck(self) -> bool:
        return self.times_bound is not None and self.times_bound < LUCK


def times_bound(message: str) -> float | None:
    """How many times its bound an error is, as a failed test says it."""
    number = r"([\d.]+(?:e[+-]?\d+)?|inf|nan)"
    pairs = re.findall(rf"{number}, expected at most {number}", message)
    pairs += re.findall(
        rf"(?:absolute|relative) difference: {number} .*?\(up to {number} allowed\)", message, re.IGNORECASE
    )
    ratios = [float(value) / float(bound) for value, bound in pairs if float(bound) > 0]
    return min(ratios) if ratios and ratios[0] < float("inf") else None


def first_line(message: str) -> str:
    """The line of a failure that says most."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if re.match("(Greatest a|A)bsolute difference", line)]
    line = (telling or lines or [""])[0].replace(f"{scratch.TREE}/", "")
    return re.sub(r"^\w+Error: ", "", line)[:160]


def failures_of(arguments: Sequence[str], level: str) -> list[tuple[str, str]]:
    """Run tests in the copy; return those that fail, by their names, and what each says."""
    results = scratch.FOLDER / "results.xml"
    results.unlink(missing_ok=True)
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={results}", *arguments]
    try:
        done = scratch.python(command, level, PATIENCE)
    except subprocess.TimeoutExpired:
        return [(" ".join(arguments), "hangs")]
    if done.returncode < 0:
        return [(" ".join(arguments), f"crashes with signal {-done.returncode}")]
    if done.returncode not in (0, 1) or not results.exists():
        raise RuntimeError(f"pytest {' '.join(arguments)}:\n{(done.stdout + done.stderr)[-3000:]}")
    found = []
    for case in ElementTree.parse(results).iter("testcase"):
        for failure in (*case.findall("failure"), *case.findall("error")):
            name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
            found.append((name, failure.get("message") or failure.text or ""))
    if any(" did not build:" in message for _, message in found):  # as emulator.run_ninja says it
        raise RuntimeError(found[0][1])
    return found


def try_out(fault: Fault, level: str, expected_alone: bool) -> Seen:
    """Put a fault in and run the tests."""
    started = time.monotonic()
    chosen = ["-k", fault.chosen] if fault.chosen else []
    emulated = "emulated or updates or projections or products" if fault.kind == "cuda" else "not emulated"
    seen = Seen(fault.name)
    with scratch.with_fault(fault, level):
        tests = [*fault.tests.split(), *chosen, f"--maxfail={MOST_FAILURES}"]
        failures = failures_of(["-p", "furthest", *tests], level)
        if not failures and not expected_alone:
            seen.expected = False
            failures = failures_of([*ALL_TESTS, "-x", "-k", emulated], level)
    if failures:
        seen.failures = len(failures)
        # The test that bounds errors and finds the largest tells most of how near a fault is to rounding.
        ratios = [(times_bound(message) or 0.0, name, message) for name, message in failures]
        largest, seen.test, message = max(ratios, key=lambda each: each[0])
        exact = any(times_bound(message) is None for _, message in failures)
        seen.message = first_line(message)
        seen.times_bound = None if exact and largest < LUCK else largest
    seen.seconds = round(time.monotonic() - started, 1)
    return seen


def write_report(results: dict[str, Seen]) -> None:
    """Write what is known of all faults, as data and as a table."""
    listed = [(fault, results[fault.name]) for fault in FAULTS if fault.name in results]
    REPORT.write_text("[\n" + ",\n".join(json.dumps(dataclasses.asdict(seen)) for _, seen in listed) + "\n]\n")
    minutes = round(sum(seen.seconds for _, seen in listed) / 60)
    noticed = sum(seen.test is not None for _, seen in listed)
    lines = [
        "# Faults that the tests notice",
        "",
        f"`python tests/faults/try.py --all` puts each of {len(listed)} faults into a copy of the sources and runs",
        f"the tests that are to notice; when each was last tried, that took {minutes} minutes in all.",
        f"A test noticed {noticed} of them. The error that it found is so many times what it allows: where that is",
        f"less than {LUCK} it is seen by luck, and where there is no number the test asks for equal values.",
        "",
        "| fault | file | noticed by | how | times the bound |",
        "|---|---|---|---|---|",
    ]
    for fault, seen in listed:
        name = f"{fault.name}: {fault.what}"
        times = "" if seen.times_bound is None else f"{seen.times_bound:.3g}" + " (by luck)" * seen.by_luck
        test = "**nothing**" if seen.test is None else f"`{seen.test.removeprefix('tests/')}`"
        cells = [name, f"`{fault.file}`", test, seen.message, times]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    TABLE.write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of faults")
    parser.add_argument("--all", action="store_true", help="try every fault")
    parser.add_argument("--expected", action="store_true", help="run only the tests that are expected to notice")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - {fault.name for fault in FAULTS})
    if unknown or bool(options.names) == options.all:
        parser.error(f"expected --all or names of faults, got {', '.join(unknown) or 'both or none'}")
    faults = [fault for fault in FAULTS if options.all or fault.name in options.names]
    if emulator.missing() is not None and any(fault.kind == "cuda" for fault in faults):
        print(f"faults in CUDA kernels are not tried: {emulator.missing()}")
        faults = [fault for fault in faults if fault.kind != "cuda"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the copy is left without a fault
    with scratch.alone():
        scratch.prepare(emulator=any(fault.kind == "cuda" for fault in faults))
        return try_each(faults, options.expected)


def try_each(faults: Sequence[Fault], expected_alone: bool) -> int:
    """Try faults and keep the report; returns 1 if a fault was not noticed, or could not be."""
    usual = scratch.level_in_use()
    known = [Seen(**each) for each in json.loads(REPORT.read_text())] if REPORT.exists() else []
    results = {seen.name: seen for seen in known}
    tests_of_level: dict[str, set[str]] = {}
    wrong: list[str] = []
    for fault in faults:
        level = fault.level or usual
        if scratch.LEVELS.index(level) > scratch.LEVELS.index(usual):
            print(f"{fault.name}: not tried, as this machine has no {level}")
            continue
        try:
            seen = results[fault.name] = try_out(fault, level, expected_alone)
        except (RuntimeError, ValueError) as error:
            wrong.append(f"{fault.name} cannot be tried: {error}")
            continue
        times = "" if seen.times_bound is None else f" ({seen.times_bound:.3g} times the bound)"
        print(f"{fault.name}: {seen.test or 'NOT NOTICED'}: {seen.message}{times} {seen.seconds} s", flush=True)
        if seen.test is None:
            wrong.append(f"{fault.name} is not noticed")
        elif not seen.expected:
            wrong.append(f"{fault.name} is not noticed by the tests that were expected to, but by {seen.test}")
        if seen.test is not None and "::" in seen.test:
            tests_of_level.setdefault(level, set()).add(seen.test)
        write_report(results)
    for level, tests in tests_of_level.items():
        wrong += [f"{name} fails without a fault too" for name, _ in failures_of(sorted(tests), level)]
    print(f"{len(faults)} faults, {len(wrong)} complaints", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
