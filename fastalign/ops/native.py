"""Loads the extension where it is there, and knows why not where it is not.

The CPU kernels are registered as the extension is loaded. The CUDA kernels are registered when torch initialises CUDA,
and only if a device can run them; the other devices use the reference.
"""

from __future__ import annotations

import importlib
import json
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from fastalign.errors import VariableError

_library: torch.library.Library | None = None


def _build_record() -> dict[str, Any]:
    """What setup.py wrote about the build; empty where fastalign was never built."""
    path = Path(__file__).parents[1] / "_build.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _load() -> tuple[ModuleType | None, str | None]:
    """The extension, or why there is none; says so once where nobody asked for that."""
    if not record:
        why = "fastalign is used from its source folder, where it has not been built (pip install -e .)"
    elif not record["native"]:
        why = record["native_left_out"]
        if record["asked_for"]:
            return None, why
    else:
        try:
            extension = importlib.import_module("fastalign._C")
        except ImportError as error:
            why = f"it does not load: {error}"
        else:
            # What an environment variable asks for in vain raises here, not at the first op.
            try:
                extension.cpu_level()
                if extension.cuda_architectures():
                    extension.cuda_force()
            except ValueError as error:
                raise VariableError(str(error)) from error
            return extension, None
    warnings.warn(
        f"fastalign runs without its native kernels, on the PyTorch reference, which is slower: {why}",
        RuntimeWarning,
        stacklevel=2,
    )
    return None, why


def why_not_on(capability: tuple[int, int], architectures: tuple[str, ...], driver: int, runtime: int) -> str | None:
    """Why a device cannot run the CUDA kernels; None where it can.

    Args:
        capability: the device's compute capability, as in (9, 0).
        architectures: the targets in the binary: sm_80 runs on 8.x from 8.0 on, sm_90a on 9.0 alone, and compute_90 is
            compiled by the driver for any device from 9.0 on.
        driver: the newest CUDA version that the driver runs, as in 13000; 0 where there is no driver.
        runtime: the CUDA version that the binary was built with.
    """
    if driver == 0:
        return "no CUDA driver was found"
    if driver // 1000 < runtime // 1000:
        return f"the driver runs CUDA up to {_version(driver)}, the kernels were built with {_version(runtime)}"
    for_newer_driver = False
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
        if match is None:
            continue
        built = (int(match[2]), int(match[3]))
        if match[4]:
            runs = built == capability
        elif match[1] == "sm":
            runs = built[0] == capability[0] and built <= capability
        else:
            runs = built <= capability
        if runs and match[1] == "compute" and driver < runtime:
            for_newer_driver = True
        elif runs:
            return None
    if for_newer_driver:
        return f"this architecture needs a driver for CUDA {_version(runtime)}, this one runs up to {_version(driver)}"
    return f"the binary holds {' '.join(architectures)}, the device is of compute capability {_dotted(capability)}"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def cuda_left_out() -> str | None:
    """Why no CUDA device at all can run native kernels; None where that depends on the device."""
    if module is None:
        return f"there is no extension: {why_not}"
    if not module.cuda_architectures():
        return record["cuda_left_out"]
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    if module.stream_source() is None:
        return "this torch tells no current CUDA stream"
    return None


def cuda_devices() -> list[dict[str, Any]]:
    """Each CUDA device: its name, its compute capability and why it cannot run the kernels (None where it can)."""
    devices = []
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        why = cuda_left_out()
        if why is None and module is not None:
            why = why_not_on(capability, module.cuda_architectures(), *module.cuda_versions())
        name = torch.cuda.get_device_name(index)
        devices.append({"index": index, "name": name, "capability": _dotted(capability), "why_not": why})
    return devices


def allows_tf32(operation: str) -> bool:
    """Whether torch lets the float32 products of a "matmul" or a "conv" round their operands to TF32, at this moment.

    The precision per operation comes first: once it was set, torch refuses to tell the older flags. The binary asks at
    each float32 product, by torch's own function, as the modules of `torch.backends` take several times as long.
    """
    precision = getattr(torch._C, "_get_fp32_precision_getter", None)
    if precision is not None:
        return precision("cuda", operation) == "tf32"
    return torch.backends.cudnn.allow_tf32 if operation == "conv" else torch.backends.cuda.matmul.allow_tf32


def _define_references() -> None:
    """Gives each op a twin whose only kernel is the reference, for what a native kernel does not handle itself."""
    from fastalign.ops import reference
    from fastalign.ops.schemas import SCHEMAS

    global _library
    if _library is None:
        _library = torch.library.Library("fastalign_reference", "DEF")
        for name, schema in SCHEMAS.items():
            _library.define(name + schema)
            _library.impl(name, getattr(reference, name), "CompositeExplicitAutograd")


def _register_cuda() -> None:
    """Registers the CUDA kernels. Called by torch as it initialises CUDA, which an exception would break."""
    try:
        devices = cuda_devices()
        if module is not None and any(device["why_not"] is None for device in devices):
            _define_references()
            module.register_cuda([device["why_not"] is None for device in devices], allows_tf32)
    except Exception as error:
        warnings.warn(f"fastalign's CUDA kernels could not be registered: {error}", RuntimeWarning, stacklevel=2)
        return
    for device in devices:
        if device["why_not"] is not None:
            warnings.warn(
                f"fastalign uses the PyTorch reference on cuda:{device['index']} ({device['name']}): "
                f"{device['why_not']}",
                RuntimeWarning,
                stacklevel=2,
            )


def _keep_freed_memory() -> None:
    """Have the C library keep what an op or a step frees for the next: fresh pages cost more than writing to them does.

    NOTE: glibc keeps up to twice the largest block that it has seen freed, of 32 MiB at most, unless a setting of its
    own (MALLOC_TRIM_THRESHOLD_ or one of its like) says how much; other libraries do as they like.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8, device="cpu")


record = _build_record()
module, why_not = _load()
_keep_freed_memory()
if cuda_left_out() is None:
    torch.cuda._lazy_call(_register_cuda)
