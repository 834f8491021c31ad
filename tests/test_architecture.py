"""Imports point one way: a room of the house knows the rooms below it, and never one above or beside it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import diekae

SOURCE = Path(diekae.__file__).parent
FLOORS: tuple[tuple[str, ...], ...] = (
    ("allocator", "files", "moving", "progress", "version"),
    ("fingerprint", "data", "encoders"),
    ("config", "provenance"),
    ("inject", "knowledge", "checkpoint", "models"),
    ("editor",),
    ("differences", "prepare"),
    ("model",),
    ("run", "store"),
    ("training", "answering"),
    ("evaluation",),
    ("edit",),
    ("recipe", "report"),
    ("demo",),
    ("cli",),
    ("__main__",),
)
"""The rooms (modules and packages directly in diekae) from the lowest floor to the highest."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imports(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all that a module imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from diekae import model` names a room only in what it imports.
            yield from ((node.lineno, f"{base}.{alias.name}" if base == "diekae" else base) for alias in node.names)


def faults(path: str, text: str) -> list[str]:
    """Say which imports of a file, given relative to the package's folder, go up or sideways."""
    parts = Path(path).with_suffix("").parts
    room = parts[0]
    package = ".".join(["diekae", *parts[:-1]])
    found = []
    for line, name in imports(ast.parse(text), package):
        head, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if head != "diekae" or other == room:
            continue
        if other not in FLOOR:
            found.append(f"{path}:{line} imports {name}, which is no room: import from where it is defined")
        elif FLOOR[other] >= FLOOR[room]:
            found.append(f"{path}:{line} imports {name}, but {other} is not below {room}")
    return found


FILES = sorted(str(file.relative_to(SOURCE)) for file in SOURCE.rglob("*.py") if file != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", FILES)
def test_imports_point_down(path: str) -> None:
    room = Path(path).with_suffix("").parts[0]
    assert room in FLOOR, f"{room} is a new room: give it its floor in FLOORS"
    assert not faults(path, (SOURCE / path).read_text())


def test_the_house_is_looked_through() -> None:
    assert {"config.py", "model.py", "encoders/token.py", "inject/injection.py"} <= set(FILES)
    assert len(FILES) > 25


@pytest.mark.parametrize(
    ("path", "text", "fault"),
    [
        ("encoders/token.py", "from diekae.config import DiekaeConfig", True),
        ("encoders/token.py", "from diekae.data.prompt import Prompt", True),
        ("encoders/token.py", "from diekae.encoders.base import Encoder", False),
        ("config.py", "from diekae.encoders import encoder_class", False),
        ("inject/hooks.py", "def f():\n    import diekae.model", True),
        ("inject/hooks.py", "from ..training import run", True),
        ("inject/hooks.py", "from .hookpoints import Hookpoint", False),
        ("training/run.py", "from diekae import model", False),
        ("training/run.py", "from diekae import evaluation", True),
        ("model.py", "from diekae import DiekaeConfig", True),
        ("model.py", "import torch, json", False),
    ],
)
def test_the_watchman_sees(path: str, text: str, fault: bool) -> None:
    assert bool(faults(path, text)) is fault


def test_the_front_door_holds_names_and_what_looks_them_up() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert defined == {"__getattr__", "__dir__"}
    guarded = [node for node in tree.body if isinstance(node, ast.If)]
    assert [ast.unparse(node.test) for node in guarded] == ["TYPE_CHECKING"]
    assert {type(node) for node in tree.body} <= {ast.Expr, ast.ImportFrom, ast.Assign, ast.If, ast.FunctionDef}
    assert set(diekae.__all__) <= set(dir(diekae))
    with pytest.raises(AttributeError, match="no attribute 'Diekae'"):
        diekae.Diekae  # noqa: B018
    assert all(hasattr(diekae, name) for name in diekae.__all__)
