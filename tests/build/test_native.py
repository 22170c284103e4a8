"""The loader of the extension: what it finds, what it refuses, and why it does without."""

import os
import re
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastalign.ops import native

BINARY = ("sm_80", "sm_90", "sm_90a", "sm_120", "compute_120")
needs_extension = pytest.mark.skipif(native.module is None, reason=f"no extension: {native.why_not}")


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


class TestLoading:
    def load(self, monkeypatch: pytest.MonkeyPatch, record: dict[str, Any]) -> tuple[object, str | None]:
        monkeypatch.setattr(native, "record", record)
        return native._load()

    def test_an_extension_that_does_not_load_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "fastalign._C", None)
        with pytest.warns(RuntimeWarning, match="without its native kernels.*it does not load"):
            module, why = self.load(monkeypatch, {"native": True})
        assert module is None
        assert why is not None

    def test_sources_that_were_never_built_are_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.warns(RuntimeWarning, match="has not been built"):
            self.load(monkeypatch, {})

    def test_python_alone_on_demand_needs_no_word(self, monkeypatch: pytest.MonkeyPatch) -> None:
        record = {"native": False, "native_left_out": "it was built with FASTALIGN_NATIVE=0", "asked_for": True}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert self.load(monkeypatch, record) == (None, "it was built with FASTALIGN_NATIVE=0")


class TestDevices:
    @pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (12, 0), (12, 1), (13, 0)])
    def test_runs(self, capability: tuple[int, int]) -> None:
        assert native.why_not_on(capability, BINARY, driver=13000, runtime=13000) is None

    @pytest.mark.parametrize("capability", [(7, 5), (10, 0), (11, 0)])
    def test_architecture_that_is_not_listed(self, capability: tuple[int, int]) -> None:
        why = native.why_not_on(capability, BINARY, driver=13000, runtime=13000)
        assert why is not None
        assert f"{capability[0]}.{capability[1]}" in why
        assert "sm_80" in why

    def test_code_for_one_architecture_alone_runs_on_no_other(self) -> None:
        assert native.why_not_on((9, 1), ("sm_90a",), driver=13000, runtime=13000) is not None
        assert native.why_not_on((9, 0), ("sm_90a",), driver=13000, runtime=13000) is None

    def test_no_driver(self) -> None:
        assert native.why_not_on((9, 0), BINARY, driver=0, runtime=13000) == "no CUDA driver was found"

    def test_old_driver(self) -> None:
        why = native.why_not_on((9, 0), BINARY, driver=12080, runtime=13000)
        assert why == "the driver runs CUDA up to 12.8, the kernels were built with 13.0"

    def test_a_somewhat_older_driver_runs_machine_code_but_compiles_none(self) -> None:
        assert native.why_not_on((9, 0), BINARY, driver=13000, runtime=13010) is None
        why = native.why_not_on((13, 0), BINARY, driver=13000, runtime=13010)
        assert why is not None
        assert "13.1" in why


class TestRegistration:
    """What torch calls when it initialises CUDA, with devices that are made up."""

    def register(self, monkeypatch: pytest.MonkeyPatch, *reasons: str | None) -> tuple[list[list[bool]], list[str]]:
        devices = [{"index": i, "name": f"device {i}", "why_not": why} for i, why in enumerate(reasons)]
        registered: list[list[bool]] = []
        monkeypatch.setattr(native, "cuda_devices", lambda: devices)
        made_up = SimpleNamespace(register_cuda=lambda usable, _: registered.append(usable))
        monkeypatch.setattr(native, "module", made_up)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            native._register_cuda()
        return registered, [str(warning.message) for warning in said]

    def test_all_devices_run_the_kernels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.register(monkeypatch, None, None) == ([[True, True]], [])

    def test_a_device_that_cannot_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        registered, said = self.register(monkeypatch, None, "too old")
        assert registered == [[True, False]]
        assert said == ["fastalign uses the PyTorch reference on cuda:1 (device 1): too old"]

    def test_without_any_device_that_can_nothing_is_registered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        registered, said = self.register(monkeypatch, "too old")
        assert registered == []
        assert len(said) == 1

    def test_a_failure_leaves_torch_in_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> None:
            raise RuntimeError("no such device")

        monkeypatch.setattr(native, "cuda_devices", fail)
        with pytest.warns(RuntimeWarning, match="could not be registered: no such device"):
            native._register_cuda()


def test_precision_follows_torch_at_every_moment() -> None:
    """Both interfaces of torch's setting, the older one first: after the newer one torch refuses the older getters."""
    code = """
import torch
from fastalign.ops import native
said = []
def say():
    said.append("".join(str(int(native.allows_tf32(operation))) for operation in ("matmul", "conv")))
say()
torch.set_float32_matmul_precision("high"); say()
torch.backends.cuda.matmul.allow_tf32 = False; say()
torch.backends.cudnn.allow_tf32 = False; say()
torch.backends.fp32_precision = "tf32"; torch.backends.cuda.matmul.fp32_precision = "none"; say()
torch.backends.cuda.matmul.fp32_precision = "ieee"; torch.backends.cudnn.conv.fp32_precision = "tf32"; say()
print(*said)
"""
    assert run(code, PYTHONWARNINGS="ignore").stdout.split() == ["01", "11", "01", "00", "11", "01"]


def test_the_reference_has_a_namespace_of_its_own() -> None:
    native._define_references()
    ones = torch.ones(2, 2)
    delta = torch.ops.fastalign_reference.feedback_term(ones, ones, ones, 0, False, 0.0, None)
    assert torch.equal(delta, torch.full((2, 2), 2.0))


@needs_extension
class TestExtension:
    def test_levels(self) -> None:
        assert native.module is not None
        assert native.module.cpu_levels()[0] == "baseline"
        assert native.module.cpu_level() in native.module.cpu_levels()

    def test_unknown_level_is_refused_at_import(self) -> None:
        refused = run("import fastalign.ops", FASTALIGN_CPU_CAPABILITY="avx9")
        assert refused.returncode != 0
        assert re.search("FASTALIGN_CPU_CAPABILITY.*avx9", refused.stderr)

    def test_baseline_by_force(self) -> None:
        code = "from fastalign.ops import native; print(native.module.cpu_level())"
        assert run(code, FASTALIGN_CPU_CAPABILITY="baseline").stdout == "baseline\n"

    def test_unknown_force_is_refused_at_import(self) -> None:
        assert native.module is not None
        if not native.module.cuda_architectures():
            pytest.skip("the binary holds no CUDA kernels")
        refused = run("import fastalign.ops", FASTALIGN_FORCE="cublas")
        assert refused.returncode != 0
        assert re.search("FASTALIGN_FORCE.*cublas", refused.stderr)
        code = "from fastalign.ops import native; print(native.module.cuda_force())"
        assert [run(code, FASTALIGN_FORCE=f).stdout for f in ("fused", "library")] == ["fused\n", "library\n"]
        assert run(code).stdout == "None\n"

    def test_the_stream_comes_from_torch(self) -> None:
        assert native.module is not None
        stable = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
        expected = "libtorch_cpu" if stable else "libtorch_cuda" if torch.version.cuda else None
        assert native.module.stream_source() == expected

    def test_kernels_are_registered(self) -> None:
        code = """
import torch
from fastalign.ops import native
from fastalign import ops
has = torch._C._dispatch_has_kernel_for_dispatch_key
print(has("fastalign::feedback_term", "CPU"), has("fastalign::feedback_term", "CUDA"))
if native.module.cuda_architectures():
    for _ in range(2):
        native.module.register_cuda([True], native.allows_tf32)
print(has("fastalign::feedback_term", "CUDA"))
"""
        assert native.module is not None
        held = bool(native.module.cuda_architectures())
        assert run(code).stdout.split() == ["True", "False", str(held)]

    def test_cuda_waits_for_torch_to_initialise_it(self) -> None:
        code = """
import torch
torch.version.cuda = "13.0"
queued = []
torch.cuda._lazy_call = queued.append
from fastalign.ops import native
print([call.__name__ for call in queued], native.cuda_left_out())
"""
        assert native.module is not None
        if not native.module.cuda_architectures():
            pytest.skip("the binary holds no CUDA kernels")
        if native.module.stream_source() is None:
            pytest.skip("this torch tells no current CUDA stream")
        assert run(code).stdout == "['_register_cuda'] None\n"


@needs_extension
@pytest.mark.skipif(shutil.which("nm") is None or shutil.which("readelf") is None, reason="there are no binutils")
class TestBinary:
    """What the binary asks of others, and shows them."""

    def tool(self, *command: str) -> str:
        assert native.module is not None
        file = str(native.module.__file__)
        return subprocess.run([*command, file], capture_output=True, text=True, check=True).stdout

    def test_it_needs_nothing_of_a_cuda_build_and_no_one_python(self) -> None:
        needed = re.findall(r"NEEDED.*\[(.*)\]", self.tool("readelf", "--dynamic"))
        assert any(name.startswith("libtorch_cpu") for name in needed)
        assert not [name for name in needed if re.search("cuda|cudart|libpython|torch_python", name)]

    def test_it_asks_torch_for_the_stable_interface_alone(self) -> None:
        asked = self.tool("nm", "--dynamic", "--undefined-only", "--demangle")
        assert "aoti_torch" in asked
        assert not re.findall(r"\b(?:c10|at|torch)::.*", asked)

    def test_it_shows_nothing_of_its_own(self) -> None:
        shown = self.tool("nm", "--dynamic", "--defined-only", "--demangle")
        assert "PyInit__C" in shown
        assert not re.findall(r".*(?:fastalign::|cuda[A-Z]).*", shown)


# Seconds of processor and kilobytes of memory at most, of torch and of what comes on top in the same process: a busy
# machine makes both dear alike, and what is small beside torch stays small.
COSTS = """
import resource
def used():
    u = resource.getrusage(resource.RUSAGE_SELF)
    return u.ru_utime + u.ru_stime, u.ru_maxrss
before = used()
import torch
between = used()
import fastalign
after = used()
print(between[0] - before[0], after[0] - between[0], between[1], after[1] - between[1])
"""


def test_import_costs_little_more_than_torch() -> None:
    costs = []
    for _ in range(5):
        result = run(COSTS)
        assert result.returncode == 0, result.stderr
        costs.append([float(value) for value in result.stdout.split()])
    seconds_of_torch, own_seconds, memory_of_torch, own_memory = map(min, zip(*costs, strict=True))
    assert own_seconds <= 0.1 * seconds_of_torch
    assert own_memory <= 0.1 * memory_of_torch
