"""`fastalign info`: what there is, what is in use, and why not."""

import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

import fastalign._version
from fastalign import info
from fastalign.ops import native


def test_it_is_json() -> None:
    told = info.collect()
    assert json.loads(json.dumps(told)) == told
    assert told["fastalign"] == fastalign._version.__version__
    assert told["torch"] == {"version": torch.__version__, "cuda": torch.version.cuda}


def test_each_line_has_a_name() -> None:
    lines = info.render(info.collect()).splitlines()
    for name in ("fastalign", "python", "torch", "binary", "CPU in use", "CUDA in use"):
        assert sum(line.startswith(name + " ") for line in lines) == 1


def test_without_the_extension_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "module", None)
    monkeypatch.setattr(native, "why_not", "the compiler was on holiday")
    told = info.collect()
    assert told["binary"]["why_not"] == "the compiler was on holiday"
    assert told["cpu"]["level"] is None
    text = info.render(told)
    assert "none: the compiler was on holiday" in text
    assert "CPU in use     PyTorch reference" in text


def made_up(**answers: Any) -> SimpleNamespace:
    defaults: dict[str, Any] = {
        "cpu_levels": ("baseline", "avx2"),
        "cpu_level": "avx2",
        "cuda_architectures": ("sm_90",),
        "stream_source": "libtorch_cpu",
        "cuda_versions": (13000, 13000),
    }
    functions = {name: Mock(return_value=value) for name, value in {**defaults, **answers}.items()}
    return SimpleNamespace(__file__="/somewhere/_C.abi3.so", **functions)


@pytest.fixture
def a_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one GPU of compute capability 9.0."""
    monkeypatch.setattr(native, "why_not", None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))


@pytest.mark.usefixtures("a_hopper")
@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({}, None),
        ({"cuda_architectures": ("sm_80",)}, "the binary holds sm_80, the device is of compute capability 9.0"),
        ({"cuda_versions": (12080, 13000)}, "the driver runs CUDA up to 12.8, the kernels were built with 13.0"),
        ({"stream_source": None}, "this torch tells no current CUDA stream"),
    ],
)
def test_devices(answers: dict[str, Any], reason: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "module", made_up(**answers))
    told = info.collect()
    assert told["cuda"]["devices"] == [{"index": 0, "name": "a GPU", "capability": "9.0", "why_not": reason}]
    state = f"PyTorch reference: {reason}" if reason else "native kernels"
    assert f"cuda:0       a GPU, 9.0, {state}" in info.render(told)


def test_a_binary_without_cuda_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "module", made_up(cuda_architectures=()))
    monkeypatch.setattr(native, "record", {**native.record, "cuda_left_out": "it was built with FASTALIGN_CUDA=0"})
    assert info.collect()["cuda"]["why_not"] == "it was built with FASTALIGN_CUDA=0"
