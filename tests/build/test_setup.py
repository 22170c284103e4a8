"""What setup.py decides: what is built, and what is refused."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
NVCC = """#!/bin/sh
case $1 in
  --list-gpu-code) echo sm_80 sm_90 sm_100;;
  --list-gpu-arch) echo compute_80 compute_90 compute_100;;
  --version) echo 'Cuda compilation tools, release 13.0, V13.0.88';;
esac
"""


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module, in an environment that asks for nothing."""
    for name in (
        "FASTALIGN_NATIVE",
        "FASTALIGN_CUDA",
        "FASTALIGN_CUDA_ARCHS",
        "CXX",
        "CUDA_HOME",
        "CUDA_PATH",
        "MAX_JOBS",
    ):
        monkeypatch.delenv(name, raising=False)
    specification = importlib.util.spec_from_file_location("fastalign_setup", ROOT / "setup.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "fastalign_setup", module)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "USUAL_CUDA", "/nonexistent")
    return module


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, with nothing in it but a shell."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def put(path: Path, text: str = "#!/bin/sh\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def python_headers(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    put(tmp_path / "include" / "Python.h")
    monkeypatch.setattr(build.sysconfig, "get_path", lambda _: str(tmp_path / "include"))
    return tmp_path / "include"


def test_without_a_compiler_python_alone_is_installed(build: ModuleType, tools: Path) -> None:
    plan = build.make_plan()
    assert plan.compiler is None
    assert "no C++ compiler" in plan.native_left_out
    assert not plan.asked_for


def test_without_python_headers_python_alone_is_installed(build: ModuleType, tools: Path, python_headers: Path) -> None:
    put(tools / "g++")
    (python_headers / "Python.h").unlink()
    plan = build.make_plan()
    assert plan.compiler is None
    assert "Python.h" in plan.native_left_out


@pytest.mark.parametrize("name", ["FASTALIGN_NATIVE", "FASTALIGN_CUDA"])
def test_without_a_compiler_a_demand_is_refused(
    build: ModuleType, tools: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SystemExit, match=f"no C\\+\\+ compiler .*{name}=1"):
        build.make_plan()


def test_python_alone_on_demand_whatever_the_compiler(
    build: ModuleType, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTALIGN_NATIVE", "0")
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    plan = build.make_plan()
    assert plan.compiler is None
    assert plan.asked_for


def test_contradiction_is_refused(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTALIGN_NATIVE", "0")
    monkeypatch.setenv("FASTALIGN_CUDA", "1")
    with pytest.raises(SystemExit, match=r"FASTALIGN_CUDA=1 .* FASTALIGN_NATIVE=0"):
        build.make_plan()


@pytest.mark.parametrize(
    ("name", "choices"), [("FASTALIGN_NATIVE", "auto, 0 or 1"), ("FASTALIGN_CUDA", "auto, 0, machine or 1")]
)
def test_unknown_choice_is_refused(build: ModuleType, name: str, choices: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "yes")
    with pytest.raises(SystemExit, match=f"{name}: expected {choices}, got 'yes'"):
        build.make_plan()


def test_a_named_compiler_that_is_missing_is_refused(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    with pytest.raises(SystemExit, match="CXX: '/nonexistent/c\\+\\+' was not found"):
        build.make_plan()


@pytest.mark.usefixtures("python_headers")
class TestCuda:
    @pytest.fixture(autouse=True)
    def compiler(self, tools: Path) -> None:
        put(tools / "g++")

    def test_without_nvcc_there_are_cpu_kernels_alone(self, build: ModuleType) -> None:
        plan = build.make_plan()
        assert plan.compiler == "g++"
        assert plan.nvcc is None
        assert "no nvcc" in plan.cuda_left_out

    def test_without_nvcc_a_demand_is_refused(self, build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FASTALIGN_CUDA", "1")
        with pytest.raises(SystemExit, match=r"FASTALIGN_CUDA=1 .* nvcc was found neither"):
            build.make_plan()

    def test_nvcc_is_left_alone_on_demand(
        self, build: ModuleType, tools: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tools / "nvcc", NVCC)
        monkeypatch.setenv("FASTALIGN_CUDA", "0")
        plan = build.make_plan()
        assert plan.nvcc is None
        assert "FASTALIGN_CUDA=0" in plan.cuda_left_out

    def test_cuda_home_comes_before_path(
        self, build: ModuleType, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tools / "nvcc", NVCC)
        put(tmp_path / "cuda" / "bin" / "nvcc", NVCC)
        monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
        assert build.make_plan().nvcc == str(tmp_path / "cuda" / "bin" / "nvcc")

    @pytest.mark.parametrize(
        ("asked", "targets"),
        [
            ("", ("sm_80", "compute_80", "sm_90", "sm_100")),  # of the default, what this nvcc knows
            ("8.0", ("sm_80",)),
            ("80;90+PTX", ("sm_80", "sm_90", "compute_90")),
            (" 9.0a, 10.0+PTX ", ("sm_90a", "sm_100", "compute_100")),
        ],
    )
    def test_architectures(
        self, build: ModuleType, tools: Path, asked: str, targets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tools / "nvcc", NVCC)
        monkeypatch.setenv("FASTALIGN_CUDA_ARCHS", asked)
        assert build.make_plan().architectures == targets

    @pytest.mark.parametrize("smi", [None, "#!/bin/sh\necho no devices; exit 6\n", "#!/bin/sh\necho 7.0\n"])
    def test_for_a_machine_without_a_gpu_there_are_cpu_kernels_alone(
        self, build: ModuleType, tools: Path, smi: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tools / "nvcc", NVCC)
        if smi is not None:
            put(tools / "nvidia-smi", smi)
        monkeypatch.setenv("FASTALIGN_CUDA", "machine")
        plan = build.make_plan()
        assert plan.nvcc is None
        assert "no GPU of compute capability 7.5" in plan.cuda_left_out

    @pytest.mark.parametrize(
        ("gpus", "asked", "targets"),
        [
            ("9.0\n9.0", "", ("sm_90",)),
            ("9.0\n8.0", "", ("sm_80", "sm_90")),
            ("9.0", "10.0", ("sm_100",)),
            ("13.0", "", ("sm_80", "compute_80", "sm_90", "sm_100")),  # which runs the default's PTX
        ],
    )
    def test_for_a_machine_with_gpus_their_kernels_are_built(
        self,
        build: ModuleType,
        tools: Path,
        gpus: str,
        asked: str,
        targets: tuple[str, ...],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        put(tools / "nvcc", NVCC)
        put(tools / "nvidia-smi", f"#!/bin/sh\necho '{gpus}'\n")
        monkeypatch.setenv("FASTALIGN_CUDA", "machine")
        monkeypatch.setenv("FASTALIGN_CUDA_ARCHS", asked)
        assert build.make_plan().architectures == targets

    def test_for_a_machine_with_a_gpu_but_without_nvcc_there_are_cpu_kernels_alone(
        self, build: ModuleType, tools: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tools / "nvidia-smi", "#!/bin/sh\necho 9.0\n")
        monkeypatch.setenv("FASTALIGN_CUDA", "machine")
        assert "no nvcc" in build.make_plan().cuda_left_out

    @pytest.mark.parametrize("choice", ["auto", "1"])
    def test_any_other_build_asks_for_no_gpu(
        self, build: ModuleType, tools: Path, choice: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tools / "nvcc", NVCC)
        put(tools / "nvidia-smi", "#!/bin/sh\necho 9.0\n")
        monkeypatch.setenv("FASTALIGN_CUDA", choice)
        assert build.make_plan().architectures == ("sm_80", "compute_80", "sm_90", "sm_100")

    @pytest.mark.parametrize(
        ("target", "features"),
        [
            ("sm_75", "compute_75"),
            ("sm_90", "compute_80"),
            ("compute_90", "compute_90"),
            ("sm_90a", "compute_90a"),
            ("sm_120", "compute_80"),
        ],
    )
    def test_translated_once_for_all_that_use_the_same(self, build: ModuleType, target: str, features: str) -> None:
        assert build.features(target) == features

    @pytest.mark.parametrize(("asked", "message"), [("8.6", "does not know sm_86"), ("hopper", "got 'hopper'")])
    def test_wrong_architectures_are_refused(
        self, build: ModuleType, tools: Path, asked: str, message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tools / "nvcc", NVCC)
        monkeypatch.setenv("FASTALIGN_CUDA_ARCHS", asked)
        with pytest.raises(SystemExit, match=f"FASTALIGN_CUDA_ARCHS: .*{message}"):
            build.make_plan()

    def test_an_nvcc_that_fails_is_refused(self, build: ModuleType, tools: Path) -> None:
        put(tools / "nvcc", "#!/bin/sh\necho out of order >&2; exit 1\n")
        with pytest.raises(SystemExit, match="out of order"):
            build.make_plan()


class TestJobs:
    @pytest.mark.parametrize(("gibibytes", "jobs"), [(0, 1), (5, 2), (64, 4)])
    def test_memory_and_cores_bound_them(
        self, build: ModuleType, gibibytes: int, jobs: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(build, "available_memory", lambda: gibibytes << 30)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
        assert build.jobs() == jobs

    def test_max_jobs_decides(self, build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MAX_JOBS", "7")
        assert build.jobs() == 7
        monkeypatch.setenv("MAX_JOBS", "many")
        with pytest.raises(SystemExit, match=r"MAX_JOBS: .* got 'many'"):
            build.jobs()

    def test_this_machine_has_memory(self, build: ModuleType) -> None:
        assert 0 < build.available_memory() < 1 << 50


class TestSources:
    def test_each_is_compiled_once_and_the_longest_first(self, build: ModuleType) -> None:
        with_cuda = build.sources(build.Plan("c++", "nvcc", ("sm_90",)))
        assert sorted(with_cuda) == sorted(
            str(path.relative_to(ROOT))
            for path in (ROOT / "csrc").rglob("*.c*")
            if path.suffix in (".cpp", ".cu") and "emulator" not in path.parts
        )
        without = build.sources(build.Plan("c++"))
        assert without == [name for name in with_cuda if "/cuda/" not in name]
        assert [name.startswith("csrc/cpu/kernels/level_") for name in without[:5]] == [True] * 4 + [False]
