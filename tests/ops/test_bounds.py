"""No kernel touches memory outside its tensors: they lie against pages that may not be touched, on either side."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CASES, Options, Size, arguments, needs_native
from torch import Tensor

SIZES = [Size(5, 10, 53, 21), Size(33, 17, 241, 7), Size(3, 1, 16, 40), Size(2, 130, 31, 5)]
WINDOWS = [([2, 2], [2, 2], [0, 0], [1, 1], False), ([3, 3], [1, 1], [1, 1], [1, 1], False)]
CONVOLUTION = ([3, 3], [1, 1], [1, 0], [1, 1], 1)  # of (3, 7, 11) to (5, 7, 9)


class Guarded:
    """Tensors that end where, or begin where, a page begins or ends that may not be touched."""

    def __init__(self, at_the_end: bool) -> None:
        self.at_the_end = at_the_end
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.regions: list[mmap.mmap] = []

    def __call__(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self(v) for v in value]
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() == 0:
            return value
        size = value.numel() * value.element_size()
        room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        region = mmap.mmap(-1, room + 2 * mmap.PAGESIZE)
        self.regions.append(region)
        start = ctypes.addressof(ctypes.c_char.from_buffer(region))
        for page in (start, start + mmap.PAGESIZE + room):
            assert self.libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
        offset = mmap.PAGESIZE + (room - size if self.at_the_end else 0)
        copy = torch.frombuffer(region, dtype=value.dtype, count=value.numel(), offset=offset).view(value.shape)
        return copy.copy_(value)


def run_all() -> None:
    """Runs every op on guarded tensors; a fault ends the process."""
    torch.set_num_threads(1)
    for at_the_end in (True, False):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for size in SIZES:
                for op in CASES:
                    guard = Guarded(at_the_end)
                    values = arguments(op, dtype, size, Options(dropout=0.5 * (size.samples % 2)))
                    getattr(torch.ops.fastalign, op)(*(guard(value) for value in values))
            guard = Guarded(at_the_end)
            post, post_mod, pre = (guard(torch.randn(3, *s).to(dtype)) for s in ((5, 7, 9), (5, 7, 9), (3, 7, 11)))
            torch.ops.fastalign.pepita_conv2d_update(post, post_mod, pre, *CONVOLUTION)
            torch.ops.fastalign.conv2d_update(post, pre, *CONVOLUTION, 0.5, True)
            for window, height in itertools.product(WINDOWS, (5, 6)):
                h, delta = (guard(torch.randn(2, 2, height, 40).to(dtype)) for _ in range(2))
                torch.ops.fastalign.max_pool2d_difference(h, delta, *window)
                pooled = guard(torch.ops.fastalign.max_pool2d_forward(h, *window))
                torch.ops.fastalign.max_pool2d_backward(pooled, h, delta, 1, False, 0.0, None, *window)
    print("done")


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
@pytest.mark.skipif(sys.platform != "linux", reason="pages are guarded as Linux does it")
def test_no_kernel_leaves_its_tensors() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import test_bounds; test_bounds.run_all()"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "done\n", f"ended with {result.returncode}: {result.stderr[-2000:]}"
