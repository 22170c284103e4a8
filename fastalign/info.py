"""What is installed, what of it is in use, and why not where it is not: `fastalign info`."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from fastalign._version import __version__
from fastalign.ops import native


def collect() -> dict[str, Any]:
    """All that `fastalign info` tells, ready for JSON; each `why_not` is null where nothing stands in the way."""
    extension, record = native.module, native.record
    return {
        "fastalign": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": {"version": str(torch.__version__), "cuda": torch.version.cuda},
        "binary": {
            "file": extension and extension.__file__,
            "why_not": native.why_not,
            "built_with": {name: record.get(name) for name in ("torch", "compiler", "nvcc")},
            "cpu_levels": list(extension.cpu_levels()) if extension else [],
            "cuda_architectures": list(extension.cuda_architectures()) if extension else [],
        },
        "cpu": {
            "level": extension and extension.cpu_level(),
            "forced": os.environ.get("FASTALIGN_CPU_CAPABILITY"),
            "threads": torch.get_num_threads(),
        },
        "cuda": {
            "why_not": native.cuda_left_out(),
            "stream_from": extension and extension.stream_source(),
            "devices": native.cuda_devices(),
        },
    }


def render(info: dict[str, Any]) -> str:
    """The same for people: one line for each thing."""
    torch_cuda = f"CUDA {info['torch']['cuda']}" if info["torch"]["cuda"] else "no CUDA"
    lines = [
        ("fastalign", info["fastalign"]),
        ("python", f"{info['python']}, {info['platform']}"),
        ("torch", f"{info['torch']['version']}, {torch_cuda}"),
        *_binary(info["binary"]),
        ("CPU in use", _cpu(info["cpu"])),
        *_cuda(info["cuda"]),
    ]
    return "\n".join(f"{name:<14} {value}" for name, value in lines)


def _binary(binary: dict[str, Any]) -> list[tuple[str, str]]:
    if binary["why_not"]:
        return [("binary", f"none: {binary['why_not']}")]
    made = binary["built_with"]
    tools = f"{made['compiler']}, torch {made['torch']}" + (f", CUDA {made['nvcc']}" if made["nvcc"] else "")
    return [
        ("binary", binary["file"]),
        ("  built with", tools),
        ("  CPU levels", " ".join(binary["cpu_levels"])),
        ("  CUDA", " ".join(binary["cuda_architectures"]) or "none"),
    ]


def _cpu(cpu: dict[str, Any]) -> str:
    threads = f"{cpu['threads']} thread{'s' if cpu['threads'] > 1 else ''}"
    if cpu["level"] is None:
        return f"PyTorch reference, {threads}"
    forced = " (FASTALIGN_CPU_CAPABILITY)" if cpu["forced"] else ""
    return f"{cpu['level']}{forced}, {threads}"


def _cuda(cuda: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("CUDA in use", f"no: {cuda['why_not']}" if cuda["why_not"] else f"stream from {cuda['stream_from']}")]
    if not cuda["devices"]:
        lines.append(("  devices", "none that torch can use"))
    for device in cuda["devices"]:
        state = f"PyTorch reference: {device['why_not']}" if device["why_not"] else "native kernels"
        lines.append((f"  cuda:{device['index']}", f"{device['name']}, {device['capability']}, {state}"))
    return lines
