"""`python -m fastalign` is the command `fastalign`."""

from __future__ import annotations

import sys

from fastalign.cli import main

sys.exit(main())
