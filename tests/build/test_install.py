"""Installations end to end: with pip, from a copy of the sources, each into a folder of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("setuptools", "77", reason="an installation without isolation needs setuptools")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a fresh checkout holds."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    for name in ("csrc", "fastalign"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "_build.json"))
    return folder


def test_the_source_distribution_holds_what_its_pages_name(tmp_path: Path) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    made = shutil.ignore_patterns("*.so", "__pycache__", "_build.json")
    for path in ROOT.iterdir():
        if path.name in (".git", ".venv", "build", "dist", "runs"):
            continue
        shutil.copytree(path, folder / path.name, ignore=made) if path.is_dir() else shutil.copy(path, folder)
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    named = set()
    for page in ("README.md", "CONTRIBUTING.md", "Makefile"):
        words = re.findall(
            r"(?:\.ci|benchmarks|csrc|docs|examples|fastalign|tests)/[\w/.-]*\w", (ROOT / page).read_text()
        )
        named |= {word for word in words if (folder / word).exists()}
    assert len(named) > 30
    assert named | {"Makefile", "CHANGELOG.md", "CONTRIBUTING.md", ".ci/run", "tests/conftest.py"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc", "_build.json"))]


def test_what_is_put_on_path_is_pinned_by_its_hash() -> None:
    for name in ("build.txt", "triton.txt"):
        text = (ROOT / ".ci" / name).read_text().replace("\\\n", " ")
        lines = [line for line in text.splitlines() if not line.startswith(("#", "--"))]
        assert lines
        assert all(re.fullmatch(r"[\w-]+==[\w.]+( +--hash=sha256:[0-9a-f]{64})+", line) for line in lines)
    for page in ("Makefile", ".ci/run"):
        installs = [line for line in (ROOT / page).read_text().replace("\\\n", " ").splitlines() if "triton" in line]
        assert all(
            "--requirement .ci/triton.txt" in line for line in installs if "pip install" in line or "(PIP)" in line
        )


def pip_install(sources: Path, target: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--no-input"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FASTALIGN_")}
    return subprocess.run(
        [*command, "--target", str(target), str(sources)],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def run(target: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs Python on what was installed in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(target)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=target, capture_output=True, text=True, check=False
    )


INFO = "import json; from fastalign import info; print(json.dumps(info.collect()))"
PROJECTION = "import torch; from fastalign import ops; print(ops.dfa_projection(*(torch.ones(2, 2),) * 3)[0, 0].item())"


@pytest.fixture
def no_compilers(tmp_path: Path) -> str:
    """A PATH without compilers."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    return str(folder)


def test_without_a_compiler_it_runs_on_the_reference_and_says_so_once(
    sources: Path, tmp_path: Path, no_compilers: str
) -> None:
    target = tmp_path / "installed"
    installed = pip_install(sources, target, PATH=no_compilers, CXX="")
    assert installed.returncode == 0, installed.stderr
    assert not list(target.rglob("*.so"))

    used = run(target, PROJECTION)
    assert used.returncode == 0, used.stderr
    assert float(used.stdout) == pytest.approx(2 * 0.4199743416, rel=1e-5)
    assert used.stderr.count("without its native kernels") == 1
    assert "no C++ compiler" in used.stderr

    told = json.loads(run(target, INFO).stdout)
    assert "no C++ compiler" in told["binary"]["why_not"]
    assert told["cpu"]["level"] is None


def test_a_compiler_that_fails_fails_the_installation(sources: Path, tmp_path: Path) -> None:
    broken = shutil.which("false")
    assert broken is not None
    target = tmp_path / "installed"
    installed = pip_install(sources, target, CXX=broken, FASTALIGN_CUDA="0")
    assert installed.returncode != 0
    assert not target.exists()

    without = pip_install(sources, target, CXX=broken, FASTALIGN_NATIVE="0")
    assert without.returncode == 0, without.stderr
    used = run(target, PROJECTION)
    assert used.returncode == 0
    assert "native kernels" not in used.stderr, "what was asked for needs no warning"
    assert "FASTALIGN_NATIVE=0" in json.loads(run(target, INFO).stdout)["binary"]["why_not"]


@pytest.mark.parametrize("name", ["FASTALIGN_NATIVE", "FASTALIGN_CUDA"])
def test_a_demand_that_cannot_be_met_is_refused(sources: Path, tmp_path: Path, no_compilers: str, name: str) -> None:
    target = tmp_path / "installed"
    installed = pip_install(sources, target, PATH=no_compilers, CXX="", **{name: "1"})
    assert installed.returncode != 0
    assert f"{name}=1 asks for the extension" in installed.stdout + installed.stderr
    assert not target.exists()
