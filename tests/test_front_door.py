"""What `import diekae` gives: names, a version, types; and what it does not cost."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

import diekae


def test_what_is_used_first_stands_in_front() -> None:
    from diekae import DiekaeConfig, DiekaeModel, Edit, KnowledgeStore, PreparedKnowledge, ask, load_decoder

    named = (DiekaeConfig, DiekaeModel, Edit, KnowledgeStore, PreparedKnowledge, ask, load_decoder)
    assert sorted(thing.__name__ for thing in named) == sorted({*diekae.__all__} - {"__version__"})
    assert all(thing.__module__.startswith("diekae.") for thing in named)


def test_the_version_is_that_of_the_package() -> None:
    assert diekae.__version__ == metadata("diekae")["Version"]


def test_a_source_tree_that_was_never_installed_has_a_version_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    monkeypatch.delitem(sys.modules, "diekae.version", raising=False)
    assert diekae.__version__ == "0+unknown"
    sys.modules.pop("diekae.version", None)


def test_types_are_shipped() -> None:
    assert (Path(diekae.__file__).parent / "py.typed").is_file()


def test_the_front_door_is_light() -> None:
    """Nothing is imported with it but what every Python has at hand."""
    code = "import sys, importlib, typing; before = set(sys.modules); import diekae; print(set(sys.modules) - before)"
    source = str(Path(diekae.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, env={"PYTHONPATH": source}
    )
    assert done.stdout.strip() == "{'diekae'}", done.stderr


def test_a_name_that_is_not_there_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Store'"):
        diekae.Store  # noqa: B018
