"""The structure of the code: imports point one way, files and functions are short, and names are unique."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import diekae

SOURCE = Path(diekae.__file__).parent
RESEARCH = Path(__file__).parents[1] / "research" / "src" / "diekae_research"
FLOORS: tuple[tuple[str, ...], ...] = (
    ("allocator", "files", "free_memory", "placement", "progress", "readers", "sqlite", "version"),
    ("fields", "moving"),
    ("fingerprint", "data", "encoders"),
    ("smollm2",),
    ("config", "hub", "provenance"),
    ("inject", "knowledge", "checkpoint", "models"),
    ("editor",),
    ("prepare",),
    ("model",),
    ("run", "store"),
    ("training", "answering"),
    ("evaluation",),
    ("edit",),
    ("recipe", "report"),
    ("demo", "study", "serve"),
    ("cli",),
    ("__main__",),
)
"""The rooms (modules and packages directly in diekae), from the lowest floor to the highest."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

MOST_LINES = 300
"""Most lines of a file."""
MOST_FUNCTION_LINES = 50
"""Most lines of a function, with its docstring."""


@cache
def all_files() -> dict[str, ast.Module]:
    """The parsed files of both packages, by their paths from the packages' parent folders."""
    paths = {
        f"{root.name}/{path.relative_to(root)}": path for root in (SOURCE, RESEARCH) for path in root.rglob("*.py")
    }
    return {name: ast.parse(path.read_text()) for name, path in sorted(paths.items())}


def imports(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything that a module imports, also in functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from diekae import model` names a room only in what it imports.
            yield from ((node.lineno, f"{base}.{alias.name}" if base == "diekae" else base) for alias in node.names)


def import_faults(path: str, tree: ast.Module) -> list[str]:
    """Say which imports of a file, whose path is relative to diekae's folder, point up or sideways."""
    parts = Path(path).with_suffix("").parts
    room = parts[0]
    package = ".".join(["diekae", *parts[:-1]])
    faults = []
    for line, name in imports(tree, package):
        head, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if head != "diekae" or other == room:
            continue
        if other not in FLOOR:
            faults.append(f"{path}:{line} imports {name}, which is no room: import from where it is defined")
        elif FLOOR[other] >= FLOOR[room]:
            faults.append(f"{path}:{line} imports {name}, but {other} is not below {room}")
    return faults


FILES = sorted(str(file.relative_to(SOURCE)) for file in SOURCE.rglob("*.py") if file != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", FILES)
def test_imports_point_down(path: str) -> None:
    room = Path(path).with_suffix("").parts[0]
    assert room in FLOOR, f"{room} is a new room: give it its floor in FLOORS"
    assert not import_faults(path, all_files()[f"diekae/{path}"])


def test_all_files_are_checked() -> None:
    assert {"config.py", "model/model.py", "encoders/token.py", "inject/injection.py"} <= set(FILES)
    assert len(FILES) > 25
    assert len(all_files()) > len(FILES) + 100, "research has files too"


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
def test_imports_that_point_up_are_found(path: str, text: str, fault: bool) -> None:
    assert bool(import_faults(path, ast.parse(text))) is fault


def test_the_library_never_imports_the_research() -> None:
    for path in FILES:
        package = ".".join(["diekae", *Path(path).parts[:-1]])
        names = {name.partition(".")[0] for _, name in imports(all_files()[f"diekae/{path}"], package)}
        assert "diekae_research" not in names, path


def line_count(path: str) -> int:
    """Lines of a file, given as in :func:`all_files`."""
    root = SOURCE.parent if path.startswith("diekae/") else RESEARCH.parent
    return len((root / path).read_text().splitlines())


def test_files_are_short() -> None:
    counts = {path: line_count(path) for path in all_files()}
    too_long = {path: count for path, count in counts.items() if count > MOST_LINES}
    assert not too_long, f"divide these files by concern, to at most {MOST_LINES} lines"


def test_functions_are_short() -> None:
    too_long = {}
    for path, tree in all_files().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name, lines = f"{path}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MOST_FUNCTION_LINES:
                    too_long[name] = lines
    assert not too_long, f"divide these functions, to at most {MOST_FUNCTION_LINES} lines"


def test_no_two_public_classes_share_a_name() -> None:
    paths = defaultdict(list)
    for path, tree in all_files().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                paths[node.name].append(path)
    shared = {name: where for name, where in paths.items() if len(where) > 1}
    assert not shared, "rename one class of each name"


def test_the_root_module_has_only_names_and_their_lookup() -> None:
    tree = all_files()["diekae/__init__.py"]
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert defined == {"__getattr__", "__dir__"}
    guarded = [node for node in tree.body if isinstance(node, ast.If)]
    assert [ast.unparse(node.test) for node in guarded] == ["TYPE_CHECKING"]
    assert {type(node) for node in tree.body} <= {ast.Expr, ast.ImportFrom, ast.Assign, ast.If, ast.FunctionDef}
    assert set(diekae.__all__) <= set(dir(diekae))
    with pytest.raises(AttributeError, match="no attribute 'Diekae'"):
        diekae.Diekae  # noqa: B018
    assert all(hasattr(diekae, name) for name in diekae.__all__)
