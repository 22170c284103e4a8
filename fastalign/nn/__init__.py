"""Everything in `torch.nn`, with `Linear`, `Conv2d` and `Sequential` that know learning rules, and `Block`.

`import fastalign.nn as nn` is the whole change to a script that has `import torch.nn as nn`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fastalign.engine.layers import Block, Conv2d, Linear
from fastalign.engine.sequential import Sequential

if TYPE_CHECKING:
    from torch.nn import *  # type: ignore[assignment]  # noqa: F403

__all__ = ["Block", "Conv2d", "Linear", "Sequential"]


def __getattr__(name: str) -> Any:
    return getattr(torch.nn, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(torch.nn)})
