"""`diekae knowledge` and `diekae ask --store`."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from builders import make_decoder, make_encoder, make_model, make_tokenizer, write_pdf
from cli_runs import error_of, invoke
from diekae import DiekaeModel
from diekae.cli import typer_app
from diekae.store import KnowledgeStore
from document_files import word_file


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    decoder = make_decoder()
    decoder.save_pretrained(folder / "decoder")
    make_tokenizer().save_pretrained(folder / "decoder")
    decoder.config.name_or_path = str(folder / "decoder")
    make_model("reader", decoder=decoder).save_pretrained(folder / "bank")
    return folder / "bank"


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    """Load the bank and its decoder once for all commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiekaeModel, "from_pretrained", functools.cache(DiekaeModel.from_pretrained))
        yield


def test_a_folder_is_added_listed_asked_changed_and_verified(bank: Path, tmp_path: Path) -> None:
    docs, store = tmp_path / "docs", tmp_path / "store"
    docs.mkdir()
    (docs / "castle.txt").write_text("the castle is red")
    (docs / "river.md").write_text("a river has [seven] dogs")
    (docs / "bad.txt").write_bytes(b"\xff\xfe\xfa")
    result = invoke("knowledge", "add", docs, "--store", store, "--bank", bank, "--precision", "int8")
    assert result.exit_code == 1 and "left out" in result.output and "2 documents, 2 prepared now" in result.output
    (docs / "bad.txt").unlink()
    (docs / "castle.txt").write_text("the tower is blue and old")
    result = invoke("knowledge", "add", docs, "--text", "a silver ship", "--store", store, "--bank", bank)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert "3 documents, 2 prepared now, 1 files unchanged" in result.output
    listed = invoke("knowledge", "list", "--store", store)
    assert "castle.txt" in listed.output and "int8" in listed.output and "3 documents, 3 prepared" in listed.output
    rows = [json.loads(line) for line in invoke("knowledge", "list", "--json", "--store", store).output.splitlines()]
    assert [row["precision"] for row in rows] == ["int8", "exact", "exact"]
    assert "river.md" in invoke("knowledge", "search", "dogs?", "--store", store).output
    asked = invoke("ask", "--store", store, "--bank", bank, "where are the dogs")
    assert asked.exit_code == 0 and "river.md" in asked.output and "a river has [seven] dogs" in asked.output
    named = invoke("ask", "--store", store, "--document", "castle.txt", "--bank", bank, "where are the dogs")
    assert named.exit_code == 0 and "castle.txt" in named.output and "river.md" not in named.output
    assert "Not in your documents" in invoke("ask", "--store", store, "--bank", bank, "elephants").output
    assert invoke("knowledge", "verify", "--store", store).exit_code == 0
    next(store.rglob("*.safetensors")).unlink()
    broken = invoke("knowledge", "verify", "--store", store)
    assert broken.exit_code == 1 and "missing" in broken.output
    assert invoke("knowledge", "verify", "--repair", "--store", store).exit_code == 0
    again = invoke("knowledge", "add", "--store", store, "--bank", bank)
    assert "1 prepared now" in again.output, "without paths, missing documents are prepared"
    assert "removed" in invoke("knowledge", "remove", "river.md", rows[1]["id"], "--store", store).output
    assert "1 documents" in invoke("knowledge", "list", "--store", store).output


def test_search_shows_document_score_title_headings_and_best_line(bank: Path, tmp_path: Path) -> None:
    store, path = tmp_path / "store", tmp_path / "manual.md"
    filler = "the old stone wall was long and cold. " * 8
    path.write_text(
        f"# Manual\n\n{filler}\n\n## Gate [north]\n\n{filler}the gate is opened at six. {filler}\n\n"
        "| a | b |\n|---|---|\n"
        f"| ship | silver |\n| moon | gold |\n\n# Sea\n\n{filler}"
    )
    short = "a river has [seven] dogs"
    added = invoke("knowledge", "add", path, "--text", short, "--store", store, "--bank", bank)
    assert added.exit_code == 0, f"{added.output}\n{added.exception!r}"
    rows = [json.loads(line) for line in invoke("knowledge", "list", "--json", "--store", store).output.splitlines()]
    ids = {row["title"]: row["id"] for row in rows}

    lines = invoke(
        "knowledge", "search", "at six, who opened the gate?", "--count", "2", "--store", store
    ).output.split("\n")
    assert lines[0].startswith(ids["manual.md"][:12]) and lines[0].endswith("manual.md  Manual > Gate [north]")
    assert 0 < float(lines[0].split()[1]) < 3
    assert lines[1].strip() == "the gate is opened at six." and lines[1].startswith(" " * 20)
    assert len(lines) == 5 and not lines[4], "two lines for each passage"
    row = invoke("knowledge", "search", "silver ship", "--count", "1", "--store", store).output.split("\n")[1]
    assert row.strip() == "| ship | silver |"
    lines = invoke("knowledge", "search", "dogs in a river", "--count", "1", "--store", store).output.split("\n")
    assert lines[0].endswith(short) and lines[1].strip() == short, "brackets are not markup"
    output = invoke("knowledge", "search", "dogs in a river", "--count", "1", "--json", "--store", store).output
    (passage,) = map(json.loads, output.splitlines())
    assert passage["id"] == ids[short] and passage["text"] == short == passage["title"]
    assert passage["start"] == 0 and passage["end"] == len(short) and passage["heading"] == ""
    with_width = CliRunner().invoke(
        typer_app, ["knowledge", "search", "sea", "--store", str(store)], env={"COLUMNS": "50"}
    )
    assert all(len(line) <= 50 for line in with_width.output.split("\n")[1::2]), "the second line is cut to the width"
    for name in ids.values():
        invoke("knowledge", "remove", name, "--store", store)
    assert "the store is empty" in invoke("knowledge", "search", "sea", "--store", store).output


def test_an_encoder_finds_passages_in_the_store_that_it_filled(bank: Path, tmp_path: Path) -> None:
    encoder, store = make_encoder(tmp_path / "tiny-encoder"), tmp_path / "store"
    common = ("--store", store, "--embedder", encoder)
    added = invoke("knowledge", "add", "--text", "a river has seven dogs", *common, "--bank", bank)
    assert added.exit_code == 0, f"{added.output}\n{added.exception!r}"
    assert "a river has seven dogs" in invoke("knowledge", "search", "dogs", *common).output
    asked = invoke("ask", "where are the dogs", *common, "--bank", bank)
    assert asked.exit_code == 0 and "a river has seven dogs" in asked.output
    for verb in (("knowledge", "search", "dogs"), ("ask", "dogs", "--bank", bank)):
        assert "have vectors of tiny-encoder@" in error_of(*verb, "--store", store)
    with KnowledgeStore(store).catalogue.writing() as connection:
        connection.execute("UPDATE terms SET words = 'ship'")
    assert "index: " in invoke("knowledge", "verify", "--repair", *common).output
    assert "nothing is wrong" in invoke("knowledge", "verify", "--store", store).output
    assert "cannot load an embedder from" in error_of("knowledge", "search", "dogs", *common[:3], tmp_path / "no")


def test_ask_reads_files_of_all_kinds(bank: Path, tmp_path: Path) -> None:
    (tmp_path / "fact.html").write_text(
        "<html><head><title>no</title></head><body><p>the tower is red</p></body></html>"
    )
    (tmp_path / "notes").write_text("the castle is old")
    word = word_file(tmp_path / "fact.docx", ("Normal", "a river has seven dogs"))
    files = [tmp_path / "fact.html", write_pdf(tmp_path / "fact.pdf", "The ship is blue."), word, tmp_path / "notes"]
    options = [option for file in files for option in ("--knowledge", file)]
    texts = {
        "red tower": "the tower is red",
        "blue ship": "The ship is blue.",
        "dogs": "a river has seven dogs",
        "old": "the castle is old",
    }
    for question, text in texts.items():
        result = invoke("ask", *options, "--bank", bank, question)
        assert result.exit_code == 0 and text in result.output, f"{result.output}\n{result.exception!r}"
    (tmp_path / "scan.pdf").write_bytes(b"nothing of the kind")
    assert "cannot be read as PDF" in error_of("ask", "--knowledge", tmp_path / "scan.pdf", "--bank", bank, "what")


def test_wrong_calls_fail_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "fact.txt").write_text("a fact")
    for verb in ("list", "verify"):
        assert "no store at" in error_of("knowledge", verb, "--store", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert "nothing at" in error_of("knowledge", "add", tmp_path / "none.txt", "--store", tmp_path / "none")
    assert "either --knowledge FILE, or --store" in error_of("ask", "what")
    both = error_of("ask", "--store", tmp_path, "--knowledge", tmp_path / "fact.txt", "what")
    assert "either --knowledge FILE, or --store" in both
    assert "name the store" in error_of("ask", "--document", "x", "--knowledge", tmp_path / "fact.txt", "what")
