"""Takes barriers, waits for copies and bounds tests out of the CUDA kernels, one at a time, to see a test fail.

    python tests/ops/take_out.py                       # every part; writes taken_out.json and taken_out.md
    python tests/ops/take_out.py --sample 20 --seed 3  # a few parts, each on the test that caught it in the last report
    python tests/ops/take_out.py --only update.cu      # those of one file, without a report

The kernels are compiled once, for the emulator, with a guard around every part that a number switches off. A run with
nothing taken out says which tests reach which parts; then each part is out in turn, in a process of its own, until one
of its tests fails. A part whose absence no test notices must have its reason in taken_out_reasons.json, or go.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import re
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # processes are forked
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parents[1])]

import emulator  # noqa: E402
import pytest  # noqa: E402
from _pytest.runner import runtestprotocol  # noqa: E402

REPORT, TABLE = HERE / "taken_out.json", HERE / "taken_out.md"
REASONS = HERE / "taken_out_reasons.json"
FOLDER = emulator.FOLDER / "taken_out"
# What the emulator replaces, and what is no kernel's.
LEFT_ALONE = {"ptx.cuh", "dynamic_shared.cuh", "launch.cuh"}
PATIENCE = 10.0  # seconds of tests for one part, after which it counts as not noticed
OPENING, CLOSING = "([{", ")]}"


@dataclasses.dataclass
class Part:
    """What can be taken out: the n-th `code` of a file."""

    file: str
    code: str
    occurrence: int
    line: int
    caught_by: str | None = None
    message: str = ""
    tests: int = 0  # that reach it
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str, int]:
        return self.file, self.code, self.occurrence


class Guards:
    """Puts guards into sources, and keeps the parts in the order of their numbers."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def part(self, file: str, text: str, start: int, code: str) -> int:
        code = " ".join(code.split())
        occurrence = sum(part.file == file and part.code == code for part in self.parts)
        self.parts.append(Part(file, code, occurrence, text.count("\n", 0, start) + 1))
        return len(self.parts) - 1

    def guard(self, file: str, text: str) -> str:
        """A source with its parts guarded."""
        inserted: list[tuple[int, int, str]] = []  # where, how many characters give way, what comes
        for begin, end in device_code(text):
            for match in re.finditer(r"(?:__syncthreads|__syncwarp|cp_async_wait<[^;]*?>)\([^;]*\);", text[begin:end]):
                number = self.part(file, text, begin + match.start(), match[0])
                inserted.append((begin + match.start(), 0, f"if (!{GUARD}::taken_out({number})) "))
            for match in re.finditer(r"(?<![\w:])(min|max)\(", text[begin:end]):
                start = begin + match.start()
                inside, after = begin + match.end(), end_of(text, begin + match.end())
                comma = next(i for i in range(inside, after) if text[i] == "," and depth(text[inside:i]) == 0)
                call = text[start : after + 1]
                first = self.part(file, text, start, f"{text[inside:comma]} in {call}")
                second = self.part(file, text, start, f"{text[comma + 1 : after]} in {call}")
                inserted.append((start, len(match[0]), f"{GUARD}::{match[1]}({first}, {second}, "))
            for start, stop, holds in comparisons(text, begin, end):
                number = self.part(file, text, start, text[start:stop])
                inserted.append(
                    (start, 0, f"({GUARD}::taken_out({number}) || " if holds else f"(!{GUARD}::taken_out({number}) && ")
                )
                inserted.append((stop, 0, ")"))
        for where, replaced, words in sorted(inserted, key=lambda change: change[0], reverse=True):
            text = text[:where] + words + text[where + replaced :]
        return '#include "emulator/taken_out.h"\n' + text


GUARD = "::fastalign::emulator"


def depth(text: str) -> int:
    return sum(text.count(c) for c in OPENING) - sum(text.count(c) for c in CLOSING)


def end_of(text: str, inside: int) -> int:
    """Where the bracket closes that `inside` is the first place in."""
    level = 1
    for i in range(inside, len(text)):
        level += (text[i] in OPENING) - (text[i] in CLOSING)
        if level == 0:
            return i
    raise ValueError("a bracket that is not closed")


def device_code(text: str) -> Iterator[tuple[int, int]]:
    """The functions that run on the device, from their parameters to their last brace."""
    reached = 0
    for match in re.finditer(r"__(?:device|global)__", text):
        if match.start() < reached:
            continue
        level, i = 0, match.end()
        while not (level == 0 and text[i] in "{;"):
            level += (text[i] in OPENING) - (text[i] in CLOSING)
            i += 1
        if text[i] == "{":
            reached = end_of(text, i + 1) + 1
            yield match.end(), reached


def comparisons(text: str, begin: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """The bounds tests: from where, to where, and what they say inside the bounds."""
    for match in re.finditer(r"(?<=[^<>]) (<|<=|>|>=) (?=[^<>])", text[begin:end]):
        operator = begin + match.start()
        statement = text[max(text.rfind(c, begin, operator) for c in ";{}") + 1 : operator]
        line = text[text.rfind("\n", 0, operator) + 1 : operator]
        if "constexpr" in statement or "static_assert" in statement or line.lstrip().startswith(("//", "#")):
            continue
        start, stop = edge(text, operator - 1, -1), edge(text, begin + match.end(), 1)
        if not in_loop_header(text, begin, start, stop):
            yield start, stop, not skips(text, begin, start)


def skips(text: str, begin: int, start: int) -> bool:
    """Whether a comparison is in a condition that sends a thread away."""
    level = 0
    for i in range(start - 1, begin, -1):
        level += (text[i] in CLOSING) - (text[i] in OPENING)
        if level < 0:
            after = text[end_of(text, i + 1) + 1 :]
            return text[:i].endswith("if ") and re.match(r" \{?\s*(continue|break|return);", after) is not None
    return False


def edge(text: str, i: int, direction: int) -> int:
    """How far an operand of a comparison reaches, to the left or to the right."""
    level = 0
    while True:
        c = text[i]
        if c in OPENING + CLOSING:
            level += direction if c in OPENING else -direction
            if level < 0:
                break
        elif level == 0 and (
            c in ";,?"
            or text[i - 1 : i + 1] in ("&&", "||")
            or text[i : i + 2] in ("&&", "||")
            or (c == ":" and text[i - 1] != ":" and text[i + 1] != ":")
            or (c == "=" and text[i - 1] not in "=<>!" and text[i + 1] != "=")
            or (direction < 0 and text[max(0, i - 6) : i + 1] == "return ")
        ):
            break
        i += direction
    if direction > 0:
        return len(text[:i].rstrip())
    return i + 1 + len(text[i + 1 :]) - len(text[i + 1 :].lstrip())


def in_loop_header(text: str, begin: int, start: int, stop: int) -> bool:
    """Whether a comparison alone says how long a loop goes on."""
    level = 0
    for i in range(start - 1, begin, -1):
        level += (text[i] in CLOSING) - (text[i] in OPENING)
        if level < 0:
            loop = re.search(r"\b(for|while) $", text[:i])
            return loop is not None and "&&" not in text[edge(text, start - 1, -1) - 3 : stop + 3]
    return False


class TakeOut:
    """Runs tests with one part after the other taken out, in the place of pytest's own loop."""

    def __init__(self, parts: list[Part], module: ModuleType, numbers: list[int], tests: set[str] | None) -> None:
        self.parts, self.module, self.numbers, self.tests = parts, module, numbers, tests
        self.failed: list[str] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        emulator.kernels = lambda: self.module  # type: ignore[assignment]
        reaching: dict[int, list[tuple[float, pytest.Item]]] = {}
        for item in session.items:
            if not tells_much(item) or (self.tests is not None and item.nodeid not in self.tests):
                continue
            self.module.parts_reached()
            start = time.monotonic()
            failure = fails(item)
            if failure is not None:
                self.failed.append(f"{item.nodeid} fails with nothing taken out: {failure}")
                continue
            for number in self.module.parts_reached():
                reaching.setdefault(number, []).append((time.monotonic() - start, item))
        for number in self.numbers:
            part, tests = self.parts[number], sorted(reaching.get(number, []), key=lambda test: test[0])
            start = time.monotonic()
            part.tests = len(tests)
            part.caught_by, part.message = self.run_without(number, [item for _, item in tests])
            part.seconds = round(time.monotonic() - start, 2)
            print(
                f"{part.file}:{part.line}: {part.code}: {part.caught_by or 'NOT NOTICED'} {part.seconds} s", flush=True
            )
        return True

    def run_without(self, number: int, items: Sequence[pytest.Item]) -> tuple[str | None, str]:
        """Which test notices that a part is out, and how; in a process of its own, which may crash or hang."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            self.module.take_out(number)
            started = time.process_time()
            for item in items:
                os.write(writer, (json.dumps([item.nodeid, None]) + "\n").encode())
                failure = fails(item)
                if failure is not None:
                    os.write(writer, (json.dumps([item.nodeid, failure]) + "\n").encode())
                    break
                if time.process_time() - started > PATIENCE:
                    break
            os._exit(0)
        os.close(writer)
        running, message, deadline = None, None, time.monotonic() + 10 * PATIENCE
        with os.fdopen(reader) as lines:
            while select.select([lines], [], [], max(0.0, deadline - time.monotonic()))[0]:
                line = lines.readline()
                if not line:
                    break
                running, message = json.loads(line)
            else:
                os.kill(child, signal.SIGKILL)
                message = "hangs"
        _, status = os.waitpid(child, 0)
        if message is None and os.WIFSIGNALED(status):
            message = f"crashes with signal {os.WTERMSIG(status)}"
        return (running, message) if message is not None else (None, "")


def tells_much(item: pytest.Item) -> bool:
    """Whether a test runs the package's kernels under the emulator, and others do not run them in the same way."""
    elsewhere = ("emulator", "instructions", "sanitizers", "activations", "random", "determinism")
    alike = (
        r"test_activation\[|test_given_output|without_tensor_cores|test_fault|emulated-library|\[cpu|float64|-float16"
    )
    if item.path.stem.removeprefix("test_") in elsewhere or re.search(alike, item.nodeid):
        return False
    return "emulated" in item.nodeid or "emulator" in vars(item.module)  # type: ignore[attr-defined]


def fails(item: pytest.Item) -> str | None:
    """Runs a test; the first line of what it says where it fails."""
    for report in runtestprotocol(item, log=False, nextitem=None):
        if report.failed:
            lines = re.findall(r"^E +(.+)$", str(report.longrepr), re.M)
            return str(lines[0] if lines else report.longrepr)[:200]
    return None


def last_report() -> dict[tuple[str, str, int], dict[str, Any]]:
    """The parts of the last report, by what they are."""
    parts = json.loads(REPORT.read_text())["parts"]
    return {(part["file"], part["code"], part["occurrence"]): part for part in parts}


def reasons() -> dict[tuple[str, str, int], str]:
    """Why parts that no test misses are there."""
    listed = json.loads(REASONS.read_text())
    return {(each["file"], each["code"], each["occurrence"]): each["reason"] for each in listed}


def guarded_kernels() -> tuple[list[Part], ModuleType]:
    """The package's kernels with guards, compiled for the emulator."""
    guards, kernels = Guards(), []
    for path in sorted((emulator.CSRC / "cuda").rglob("*.cu*"), key=lambda path: path.name):
        if path.name in LEFT_ALONE:
            continue
        guarded = FOLDER / path.relative_to(emulator.CSRC)
        guarded.parent.mkdir(parents=True, exist_ok=True)
        text = guards.guard(path.name, path.read_text())
        if not guarded.exists() or guarded.read_text() != text:
            guarded.write_text(text)
        if path.suffix == ".cu":
            kernels.append(guarded)
    hosts = [path for path in emulator.KERNELS if path.suffix == ".cpp"]
    return guards.parts, emulator.build("taken_out", (*kernels, *hosts), emulator.BINDINGS, FOLDER)


def write_report(parts: list[Part], seconds: float) -> None:
    """The report as data and as a table of what no test noticed."""
    data = {"seconds": round(seconds), "parts": [dataclasses.asdict(part) for part in parts]}
    REPORT.write_text(json.dumps(data, indent=1) + "\n")
    why = reasons()
    lines = ["# What the kernels cannot do without", ""]
    lines += [
        f"`tests/ops/take_out.py` took out each of {len(parts)} barriers, waits for copies and bounds tests of",
        f"`csrc/cuda/`, one at a time, and ran the emulated tests, in {round(seconds / 60)} minutes. A test failed for",
        f"{sum(part.caught_by is not None for part in parts)} of them. The others:",
        "",
        "| file | part | tests that reach it | why it is there |",
        "|---|---|---|---|",
    ]
    for part in parts:
        if part.caught_by is None:
            reason = why.get(part.key, "**no reason given**")
            code = part.code.replace("|", "\\|")
            lines.append(f"| {part.file} | `{code}` | {part.tests} | {reason} |")
    lines += ["", "| file | parts | noticed | seconds |", "|---|---|---|---|"]
    for file in sorted({part.file for part in parts}):
        here = [part for part in parts if part.file == file]
        caught = sum(part.caught_by is not None for part in here)
        lines.append(f"| {file} | {len(here)} | {caught} | {sum(part.seconds for part in here):.0f} |")
    TABLE.write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sample", type=int, help="how many parts to try, of those that the last report says are caught"
    )
    parser.add_argument("--only", help="the file whose parts to try")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    options = parser.parse_args()
    if emulator.missing() is not None:
        print(f"nothing is taken out: {emulator.missing()}")
        return 0
    started = time.monotonic()
    parts, module = guarded_kernels()
    numbers = [i for i, part in enumerate(parts) if options.only in (None, part.file)]
    tests = None
    if options.sample is not None:
        report = last_report()
        caught = [i for i in numbers if report.get(parts[i].key, {}).get("caught_by")]
        numbers = sorted(random.Random(options.seed).sample(caught, min(options.sample, len(caught))))
        tests = {report[parts[i].key]["caught_by"] for i in numbers}
    plugin = TakeOut(parts, module, numbers, tests)
    pytest.main([str(HERE), "-q", "-s", "-m", "", "-p", "no:cacheprovider"], plugins=[plugin])
    if options.sample is None and options.only is None:
        write_report(parts, time.monotonic() - started)
    why = reasons()
    unnoticed = [i for i in numbers if parts[i].caught_by is None and parts[i].key not in why]
    print(f"{len(numbers)} parts taken out, {len(unnoticed)} unnoticed and without a reason")
    print(*plugin.failed, sep="\n")
    return 1 if unnoticed or plugin.failed else 0


if __name__ == "__main__":
    sys.exit(main())
