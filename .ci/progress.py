"""Runs pip and shows what it installs and compiles, where pip itself shows nothing or fills the screen.

python3 .ci/progress.py WHAT COMMAND…    # WHAT is the first line; the exit status is the command's
"""

from __future__ import annotations

import queue
import re
import subprocess
import sys
import threading
import time

SILENCE = 20.0
"""Seconds after which a command that shows nothing is said to be running still."""
SHOWN = re.compile(r"Downloading|Installing collected packages:|compiling \d|fastalign:|WARNING:")
IGNORED = re.compile(r"WARNING: Location '.*' is ignored")
"""What pip says of a registry in a folder, once for each package that the folder does not hold."""
FAILED = re.compile(r"FAILED:|ERROR:|error:")
"""How a message of ninja's or pip's begins, from which on every line is shown."""


def show(what: str, command: list[str], silence: float = SILENCE) -> int:
    """Run a command, print the lines that tell its progress or why it fails, and return its exit status."""
    print(what, flush=True)
    start = last = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    hidden: list[str] = []
    failed = False
    while True:
        try:
            line = lines.get(timeout=max(0.0, last + silence - time.monotonic()))
        except queue.Empty:
            line = f"still running after {time.monotonic() - start:.0f} s"
        else:
            if line is None:
                break
            text = line.lstrip()
            failed = failed or bool(FAILED.match(text))
            if IGNORED.match(text) or not (failed or SHOWN.match(text)):
                hidden.append(line)
                continue
        print(f"  {line.rstrip()}" if failed else f"  {line.strip()}", flush=True)
        last = time.monotonic()
    status = process.wait()
    if status and not failed:
        print(*(line for line in hidden if not IGNORED.match(line)), sep="", end="", flush=True)
    return status


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    """Pass on each line of a process, then None."""
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


if __name__ == "__main__":
    try:
        sys.exit(show(sys.argv[1], sys.argv[2:]))
    except KeyboardInterrupt:
        sys.exit(130)
