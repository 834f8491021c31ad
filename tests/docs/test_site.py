"""The pages of the documentation: all are in the site, and README stays short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import diekae
from code_blocks import PAGES, ROOT, blocks_of
from diekae.edit import Edits
from diekae_research.sources import source_names

LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
OTHERS = [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "research/README.md")]
TESTS = ("tests", "research/tests")


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert set(re.findall(r"[\w/-]+\.md", navigation)) == pages


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_hold(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("link", ["missing.md", "index.md#missing"])
def test_the_build_fails_on_a_broken_link(link: str, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    (arguments,) = re.findall(r"/mkdocs (build .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (validation,) = re.findall(r"^validation:\n(?: .+\n)+", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"[a link]({link})")
    (tmp_path / "mkdocs.yml").write_text(f"site_name: a site\n{validation}")
    command = [sys.executable, "-m", "mkdocs", *arguments.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and link.removeprefix("index.md") in done.stderr


def test_named_results_exist() -> None:
    """A figure's file, named by its path from the root, is there."""
    for page in PAGES:
        for name in re.findall(r"`(research/[\w/.-]+)`", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_named_tests_exist() -> None:
    """The page on reliability names tests by their paths in one of the two folders of tests."""
    names = re.findall(r"`([\w/]+\.py)`", (ROOT / "docs" / "reliability.md").read_text())
    tests = [name for name in names if Path(name).name.startswith("test_")]
    assert len(tests) > 50
    assert [name for name in tests if not any((ROOT / folder / name).exists() for folder in TESTS)] == []


def test_the_api_reference_has_the_methods_that_pages_call() -> None:
    """Methods of base classes are in the reference only where it names them."""
    reference = (ROOT / "docs" / "reference" / "api.md").read_text()
    for found, variables in ((diekae.DiekaeModel, "model|DiekaeModel"), (Edits, "edits")):
        block = reference.partition(f".{found.__name__}\n")[2].partition(":::")[0]
        members = re.findall(r"^ +- (\w+)$", block, re.MULTILINE)
        code = "".join(example.parsed for page in PAGES for example in blocks_of(page, "python"))
        called = set(re.findall(rf"\b(?:{variables})\.(\w+)\(", code))
        assert called and called - set(members) == set()
        assert [name for name in members if not hasattr(found, name)] == []


def test_every_data_set_is_in_the_table() -> None:
    page = (ROOT / "docs" / "how-to" / "data-sets.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(source_names())


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
