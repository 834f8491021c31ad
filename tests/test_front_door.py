"""The root module: its names, its version, its types, and how little it imports."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

import diekae


def test_the_root_module_exports_the_most_used_names() -> None:
    from diekae import (
        DiekaeConfig,
        DiekaeModel,
        Edit,
        KnowledgeStore,
        PreparedKnowledge,
        ask,
        edit_model,
        load_decoder,
        load_edits,
        rank,
    )

    classes = (DiekaeConfig, DiekaeModel, Edit, KnowledgeStore, PreparedKnowledge)
    exported = (*classes, ask, edit_model, load_decoder, load_edits, rank)
    assert sorted(value.__name__ for value in exported) == sorted({*diekae.__all__} - {"__version__"})
    assert all(value.__module__.startswith("diekae.") for value in exported)


def test_the_version_is_that_of_the_package() -> None:
    assert diekae.__version__ == metadata("diekae")["Version"]


def test_a_source_tree_that_is_not_installed_has_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    monkeypatch.delitem(sys.modules, "diekae.version", raising=False)
    assert diekae.__version__ == "0+unknown"
    sys.modules.pop("diekae.version", None)


def test_types_are_shipped() -> None:
    assert (Path(diekae.__file__).parent / "py.typed").is_file()


def test_importing_it_imports_nothing_heavy() -> None:
    """Only modules that every Python process has are imported with it."""
    code = "import sys, importlib, typing; before = set(sys.modules); import diekae; print(set(sys.modules) - before)"
    source = str(Path(diekae.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, env={"PYTHONPATH": source}
    )
    assert done.stdout.strip() == "{'diekae'}", done.stderr


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Store'"):
        diekae.Store  # noqa: B018
