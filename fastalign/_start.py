"""The import of the package where it begins the command: Ctrl-C and errors in it are told as the command tells them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from fastalign.errors import UserError

USER_ERROR = 2
INTERRUPTED = 130


@contextmanager
def errors_of_the_command() -> Iterator[None]:
    """Make of a UserError or Ctrl-C in the block one line and an exit code, if this process is the command."""
    try:
        yield
    except UserError as error:
        if not _is_the_command():
            raise
        print(f"fastalign: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        if not _is_the_command():
            raise
        print("fastalign: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _is_the_command() -> bool:
    """Whether the process was started as `fastalign` or `python -m fastalign`."""
    script = sys.argv[0].replace("\\", "/").rpartition("/")[2] if sys.argv else ""
    return script in ("fastalign", "fastalign.exe") or ("-m", "fastalign") in pairwise(sys.orig_argv)
