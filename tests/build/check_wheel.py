"""Checks an installed fastalign: what its binary holds, and the numbers of its ops against the reference.

    python check_wheel.py [--native] [--cuda]

--native: the extension must be there and in use, without it there must be none; --cuda: likewise its CUDA kernels.
Run it away from the sources, so that the installed package is the one that is imported. Needs torch alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings

import torch
from torch import Tensor

TANH, RELU = 1, 3
FOR_A_CPU = {"feedback_steps_", "max_pool2d_forward", "max_pool2d_backward"}
"""Ops of steps that are made on a CPU alone; elsewhere the reference computes them."""


def expect(holds: bool, what: str) -> None:
    """Ends the check with a message where something does not hold."""
    if not holds:
        sys.exit(f"check_wheel: {what}")


def check_contents(native: bool, cuda: bool) -> None:
    """The binary holds what it should, and is in use."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        from fastalign import info, ops
        from fastalign.ops import native as loaded
    told = [str(warning.message) for warning in said if "native kernels" in str(warning.message)]
    expect((loaded.module is not None) == native, f"native kernels: expected {native}, but: {loaded.why_not}")
    expect(native or loaded.record["asked_for"] or len(told) == 1, f"expected one warning without them, got {told}")
    held = () if loaded.module is None else loaded.module.cuda_architectures()
    expect(bool(held) == cuda, f"CUDA kernels: expected {cuda}, the binary holds {held or None}")
    if loaded.module is not None:
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
        expect(has_kernel("fastalign::feedback_term", "CPU"), "feedback_term has no CPU kernel")
        stable_stream = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
        source = "libtorch_cpu" if stable_stream else "libtorch_cuda" if torch.version.cuda else None
        found = loaded.module.stream_source()
        expect(found == source, f"the current stream: expected from {source}, got {found}")
        if cuda:
            loaded.module.register_cuda([], loaded.allows_tf32)
            without = {op for op in ops.schemas.SCHEMAS if not has_kernel(f"fastalign::{op}", "CUDA")}
            expect(without == FOR_A_CPU, f"no CUDA kernel for {', '.join(sorted(without))}, expected {FOR_A_CPU}")
            found = loaded.module.multiplies_on_cuda()
            expect(found == (torch.version.cuda is not None), f"torch's own product on CUDA: found {found}")
    printed = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "fastalign", "info", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    expect(printed.returncode == 0, f"fastalign info failed:\n{printed.stdout}{printed.stderr}")
    expect(json.loads(printed.stdout)["torch"]["version"] == str(torch.__version__), "fastalign info --json misreports")
    print(info.render(info.collect()))


def cases(dtype: torch.dtype) -> list[tuple[str, tuple[object, ...]]]:
    """Ops and arguments, with odd sizes and strides."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    error, feedback, a, x = draw(17, 10), draw(33, 10), draw(33, 17).T, draw(17, 29)
    maps, images, map_feedback = draw(17, 4, 5, 5), draw(17, 3, 7, 7), draw(100, 10)
    convolution = ([3, 3], [1, 1], [0, 0], [1, 1], 1)
    seed = torch.tensor(7)
    return [
        ("feedback_term", (error, feedback, a, TANH, False, 0.0, None)),
        ("feedback_term", (error, map_feedback, maps, RELU, True, 0.5, seed)),
        ("linear_forward", (x, draw(33, 29), draw(33), TANH, 0.0, None, True)),
        ("linear_difference", (draw(17, 29), draw(33, 29), a, TANH, 0.0, None)),
        ("linear_update", (a, x, 0.5, True)),
        ("dfa_linear_update", (error, feedback, a, x, TANH, False)),
        ("pepita_linear_update", (a, draw(17, 33), x)),
        ("dfa_conv2d_update", (error, map_feedback, maps, images, TANH, False, *convolution)),
        ("pepita_conv2d_update", (maps, draw(17, 4, 5, 5), images, *convolution)),
        ("modulate_input", (images, error, draw(147, 10), -1.0)),
    ]


def widened(argument: object) -> object:
    """An argument in float64, where it is a floating-point tensor."""
    return argument.double() if isinstance(argument, Tensor) and argument.is_floating_point() else argument


def check_numbers() -> None:
    """In float64 each op agrees with the reference; elsewhere it is at most twice as far off as plain PyTorch is."""
    from fastalign.ops import reference

    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for name, arguments in cases(dtype):
            exact = getattr(reference, name)(*map(widened, arguments))
            plain = getattr(reference, name)(*arguments)
            result = getattr(torch.ops.fastalign, name)(*arguments)
            for e, p, r in zip(*((t,) if isinstance(t, Tensor) else t for t in (exact, plain, result)), strict=True):
                expect(r.dtype == dtype, f"{name}: expected {dtype}, got {r.dtype}")
                if dtype == torch.float64:
                    torch.testing.assert_close(r, e)
                    continue
                rounding = torch.finfo(dtype).eps * e.abs().max().item()
                bound = 2 * (p - e).abs().max().item() + 2 * rounding
                off = (r - e).abs().max().item()
                expect(off <= bound, f"{name} in {dtype}: off by {off:.3g}, allowed {bound:.3g}")
    print("numbers: as the reference, in four dtypes")


def main() -> None:
    """Runs the checks that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--cuda", action="store_true")
    options = parser.parse_args()
    check_contents(options.native, options.cuda)
    check_numbers()


if __name__ == "__main__":
    main()
