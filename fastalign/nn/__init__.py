"""Everything in `torch.nn`, with `Linear`, `Conv2d` and `Sequential` that know learning rules, and `Block`.

`import fastalign.nn as nn` is the whole change to a script that has `import torch.nn as nn`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

from fastalign.engine.layers import Block, Conv2d, Linear
from fastalign.engine.sequential import Sequential

if TYPE_CHECKING:
    from torch.nn import *  # type: ignore[assignment]  # noqa: F403

__all__ = ["Block", "Conv2d", "Linear", "Sequential"]
__all__ += [name for name in vars(torch.nn) if not name.startswith("_") and name not in __all__]

# So that `import fastalign.nn.functional as F` and `from fastalign.nn.utils import …` find torch's own modules.
for _name, _module in list(sys.modules.items()):
    if _name.startswith("torch.nn."):
        sys.modules.setdefault(f"fastalign{_name.removeprefix('torch')}", _module)


def __getattr__(name: str) -> Any:
    return getattr(torch.nn, name)


def __dir__() -> list[str]:
    return sorted(__all__)
