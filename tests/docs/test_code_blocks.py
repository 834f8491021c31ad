"""The code of README and docs runs as it stands there, and its command lines are understood."""

import ast
import copy
import shutil
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from code_blocks import PAGES, ROOT, blocks_of, commands_of, needs_of, parse_command
from diekae.recipe import make_recipe


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2) -> Path:
    """An empty folder to run in, with the demo's document where the pages name it; the decoder is loaded already."""
    source = Path("src/diekae/demo/document.txt")
    (tmp_path / source.parent).mkdir(parents=True)
    shutil.copy(ROOT / source, tmp_path / source)
    monkeypatch.chdir(tmp_path)
    # A copy, because a page may offload it, and all tests share the other one.
    decoder, tokenizer = smollm2
    loaded = copy.deepcopy(decoder), tokenizer
    monkeypatch.setattr("diekae.models.load_decoder", lambda *_args, **_options: loaded)
    return tmp_path


@pytest.fixture
def page_server(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server for the page on serving, whose clients name the usual port, and the file that it uploads."""
    openai = pytest.importorskip("openai")
    from served import running_server

    client = openai.OpenAI
    (place / "handbook.txt").write_text("The notice period is three months.")
    with running_server(store=place / "knowledge") as server:
        monkeypatch.setattr(openai, "OpenAI", lambda **options: client(**{**options, "base_url": f"{server.url}/v1"}))
        yield


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "python")], ids=name_of)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, place: Path, request: pytest.FixtureRequest) -> None:
    for module in needs_of(page):
        pytest.importorskip(module)
    if page.name == "serving.md":
        request.getfixturevalue("page_server")
    for block in blocks_of(page, "python"):
        block.evaluate()
    decoder = request.getfixturevalue("smollm2")[0]
    assert not any(parameter.is_meta for parameter in decoder.parameters()), "the other tests' decoder is as it was"


def names_of(module: str) -> set[str]:
    """The names at the top of a module, which is not imported."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, f"there is no module {module}"
    names = set[str]()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.name for alias in node.names)
    return names


@pytest.mark.parametrize("page", [page for page in PAGES if needs_of(page)], ids=name_of)
def test_code_that_may_be_skipped_imports_names_that_exist(page: Path) -> None:
    imported = [
        (node.module, alias.name)
        for block in blocks_of(page, "python")
        for node in ast.walk(ast.parse(block.parsed))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("diekae")
        for alias in node.names
    ]
    assert imported
    assert [(module, name) for module, name in imported if name not in names_of(module)] == []


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "console")], ids=name_of)
def test_cheap_commands_succeed(page: Path, place: Path) -> None:
    for block in blocks_of(page, "console"):
        block.evaluate()


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=name_of)
def test_every_command_line_is_understood(page: Path) -> None:
    for command in commands_of(page):
        parse_command(*command)


def test_recipes_are_understood() -> None:
    recipes = [tomllib.loads(block.parsed) for page in PAGES for block in blocks_of(page, "toml")]
    assert recipes
    for recipe in recipes:
        assert make_recipe(recipe).name == recipe["name"]


def test_a_wrong_option_is_seen() -> None:
    with pytest.raises(Exception, match="No such option: --knowlege"):
        parse_command("diekae", "ask", "--knowlege", "a.txt", "How tall?")
    with pytest.raises(ModuleNotFoundError):
        parse_command("diekae", "aks", "How tall?")


def test_pages_are_found() -> None:
    assert len(PAGES) > 15 and sum(len(blocks_of(page, "python")) for page in PAGES) > 20
