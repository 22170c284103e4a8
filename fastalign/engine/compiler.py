"""Keeps torch.compile out of a step: its kernels are fused already, and its backward is no graph."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def uncompiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, which runs as it is under torch.compile, with all that it calls.

    As torch.compiler.disable, but the compiler, slow to import, is left alone until somebody else has imported it.
    """
    disabled: Callable[Arguments, Result] | None = None

    @functools.wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        nonlocal disabled
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if disabled is None:
            disabled = torch.compiler.disable(function)
        return disabled(*args, **kwargs)

    run._torchdynamo_disable = True  # type: ignore[attr-defined]
    return run
