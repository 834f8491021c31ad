"""What is published: the wheel and the source distribution, built by hatchling as `pip` would, and imported."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.build import build_sdist, build_wheel

import diekae

ROOT = Path(__file__).parents[1]
INSIDE = {
    "diekae/py.typed",
    "diekae/banks/smollm2/config.json",
    "diekae/banks/smollm2/editing.safetensors",
    "diekae/banks/smollm2-exact/config.json",
    "diekae/demo/demo.toml",
    "diekae/demo/document.txt",
    "diekae/demo/train.jsonl",
}
CODE = """
from pathlib import Path
import diekae, sys
from diekae.checkpoint import load_bank, shipped_banks
from diekae.cli import typer_app

assert Path(diekae.__file__).is_relative_to(sys.argv[1]), diekae.__file__
assert {"smollm2", "smollm2-exact"} <= set(shipped_banks())
assert all(load_bank(Path(name)).tensors for name in shipped_banks())
assert all(getattr(diekae, name) for name in diekae.__all__)
"""


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    research = tomllib.loads((ROOT / "research" / "pyproject.toml").read_text())["project"]
    assert research["version"] == version and f"diekae=={version}" in research["dependencies"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions in one folder; hatchling builds the project of the current folder."""
    folder, before = tmp_path_factory.mktemp("dist"), Path.cwd()
    os.chdir(ROOT)
    try:
        build_wheel(str(folder))
        build_sdist(str(folder))
    finally:
        os.chdir(before)
    return folder


@pytest.mark.slow
def test_the_wheel_holds_banks_demo_and_types_and_no_research(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    assert wheel.name.startswith(f"diekae-{diekae.__version__}-py3-none-any")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(f"diekae-{diekae.__version__}.dist-info/entry_points.txt").decode()
    assert names >= INSIDE
    assert {name.split("/")[0] for name in names} == {"diekae", f"diekae-{diekae.__version__}.dist-info"}
    assert len([name for name in names if name.startswith("diekae/banks/smollm2/bank-")]) == 1
    assert "diekae = diekae.cli:app" in entry_points
    assert wheel.stat().st_size < 20e6


@pytest.mark.slow
def test_the_source_distribution_has_code_tests_and_docs_and_no_research(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {f"src/{name}" for name in INSIDE}
    assert names >= {"pyproject.toml", "README.md", "LICENSE", "conftest.py", "tests/test_packaging.py", "mkdocs.yml"}
    assert not [name for name in names if name.startswith(("research", "build", ".venv"))]


@pytest.mark.slow
def test_the_wheel_is_imported_from_where_it_was_unpacked(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
