"""Building data sets, from Python and from the command line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from data_commands import invoke, names, said_by

from diekae.data import DataError, Example, load_source, read_examples
from diekae_research.data.build import build_source
from layouts import FULL_DATA, needs_full_data, write_curiosity, write_json, write_lines

ROW = {"premises": ["P."], "conclusion": "C.", "label": "True"}


def folio(folder: Path, *rows: object) -> Path:
    for name in ("train", "validation"):
        write_lines(folder / f"folio-{name}.jsonl", *rows)
    return folder


def test_a_build_writes_the_parts_and_a_manifest(tmp_path: Path) -> None:
    raw, out = folio(tmp_path / "raw", ROW, ROW), tmp_path / "new" / "out"
    result = invoke("build", "folio", "--raw", raw, "--out", out)
    assert result.exit_code == 0, result.output
    assert names(out) == ["manifest.json", "train.jsonl", "validation.jsonl"]
    assert read_examples(out / "train.jsonl") == [Example(("P.",), "C.", "True", "True")] * 2
    manifest = json.loads((out / "manifest.json").read_text())
    train = manifest["splits"]["train"]
    assert (train["examples"], train["expected"], train["agrees"], train["bad_records"]) == (2, 1004, False, 0)
    assert train["files"] == {"train.jsonl": hashlib.sha256((out / "train.jsonl").read_bytes()).hexdigest()}
    assert manifest["splits"]["test"]["agrees"] is True and manifest["options"] == {"paper_marks": False}
    assert "versions" in manifest and str(tmp_path) not in json.dumps(manifest)
    assert load_source("jsonl", folder=out, split="train") == read_examples(out / "train.jsonl")


def test_leaking_examples_go_to_files_of_their_own(tmp_path: Path) -> None:
    write_curiosity(
        tmp_path / "raw", ("assistant", "Told.", [(1, True)]), ("assistant", "Untold.", []), ("assistant", "Nor.", [])
    )
    manifest = build_source("curiosity", raw=tmp_path / "raw", out=tmp_path / "out")
    part = manifest["splits"]["validation"]
    assert (part["examples"], part["leaking"]) == (1, 2)
    assert "curiosity_dialogs.train.json is missing" in manifest["splits"]["train"]["missing"]
    assert names(tmp_path / "out") == ["validation.jsonl", "validation.leak.jsonl"]
    assert [example.leaks for example in read_examples(tmp_path / "out" / "validation.leak.jsonl")] == [True, True]


def test_paper_marks_join_documents_and_mark_the_speakers(tmp_path: Path) -> None:
    write_curiosity(tmp_path / "raw", ("user", "Hi", []), ("assistant", "Told.", [(1, True), (2, True)]))
    found = load_source("curiosity", folder=tmp_path / "raw", split="validation", options={"paper_marks": True})
    assert found == [Example(("One fact. [SEP] Two.",), "[USR] Hi [SYS]", "Told.")]
    found = load_source("folio", folder=folio(tmp_path, ROW), split="train", options={"paper_marks": "true"})
    assert found == [Example(("P.",), "[USR] C. [SYS]", "True", "True")]


def test_bad_records_are_counted_or_fatal(tmp_path: Path) -> None:
    raw = folio(tmp_path / "raw", ROW, {**ROW, "label": "Maybe"}, ROW)
    with (raw / "folio-train.jsonl").open("a") as file:
        file.write("{oops\n")
    result = invoke("build", "folio", "--raw", raw, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    train = json.loads((tmp_path / "out" / "manifest.json").read_text())["splits"]["train"]
    assert (train["examples"], train["bad_records"]) == (2, 2)
    assert train["first_bad_record"].startswith("folio-train.jsonl:2: not a record of folio")
    with pytest.warns(UserWarning, match="2 bad records left out, the first folio-train.jsonl:2"):
        assert len(load_source("folio", folder=raw, split="train", limit=1)) == 1
    text = said_by("build", "folio", "--raw", raw, "--out", tmp_path / "never", "--strict")
    assert f"{raw}/folio-train.jsonl:2: " in text and "'Maybe'" in text
    assert not (tmp_path / "never").exists()


def test_nothing_but_bad_records_is_an_error(tmp_path: Path) -> None:
    raw = folio(tmp_path / "raw", {"premises": []})
    assert "the first bad record: folio-train.jsonl:1" in said_by(
        "build", "folio", "--raw", raw, "--out", tmp_path / "o"
    )
    with pytest.raises(DataError, match="no example in split 'train'.*1 bad records, the first folio-train.jsonl:1"):
        load_source("folio", folder=raw, split="train")


def test_a_second_build_replaces_the_first_and_nothing_else(tmp_path: Path) -> None:
    raw, out = folio(tmp_path / "raw", ROW), tmp_path / "out"
    invoke("build", "folio", "--raw", raw, "--out", out)
    (out / "notes.txt").write_text("mine")
    (raw / "folio-validation.jsonl").unlink()
    result = invoke("build", "folio", "--raw", raw, "--out", out)
    assert result.exit_code == 0 and "folio-validation.jsonl is" in " ".join(result.output.split())
    assert names(out) == ["manifest.json", "notes.txt", "train.jsonl"]
    (out / "manifest.json").unlink()
    assert "holds train.jsonl, which no build wrote" in said_by("build", "folio", "--raw", raw, "--out", out)
    assert len(read_examples(out / "train.jsonl")) == 1


def test_the_order_of_files_on_disk_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        edits = [{"subject": f"S{number}", "src": f"Who {number}?", "alt": "A"}]
        write_json(tmp_path / f"zsre_mend_{number}.json", edits)
    first = build_source("zsre", raw=tmp_path, out=tmp_path / "a")
    real = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(sorted(real(self, pattern), reverse=True)))
    second = build_source("zsre", raw=tmp_path, out=tmp_path / "b")
    assert first["splits"] == second["splits"]


def test_a_limit_is_a_seeded_subset_of_each_part(tmp_path: Path) -> None:
    raw = folio(tmp_path / "raw", *({**ROW, "conclusion": f"{n:02}"} for n in range(50)))
    manifest = build_source("folio", raw=raw, out=tmp_path / "out", limit=7, seed=3)
    assert manifest["splits"]["train"]["examples"] == 7 and manifest["splits"]["train"]["agrees"] is None
    assert read_examples(tmp_path / "out" / "train.jsonl") == load_source(
        "folio", folder=raw, split="train", limit=7, seed=3
    )


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("all_question=true", "Did you mean 'all_questions'"),
        ("all_questions=maybe", "'maybe'; expected true or false"),
        ("all_questions", "expected key=value"),
    ],
)
def test_a_bad_option_is_named(tmp_path: Path, setting: str, words: str) -> None:
    assert words in said_by("build", "dream", "--raw", tmp_path, "--out", tmp_path / "out", "--option", setting)
    assert "Did you mean 'dream'" in said_by("build", "dreem", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="contexts .* is 'x'; expected a whole number"):
        load_source("quasar_t", folder=tmp_path, split="train", options={"contexts": "x"})


@needs_full_data
def test_cmu_dog_agrees_with_the_paper(tmp_path: Path) -> None:
    assert FULL_DATA is not None
    manifest = build_source("cmu_dog", raw=FULL_DATA / "cmu_dog", out=tmp_path)
    assert all(part["agrees"] and not part["bad_records"] for part in manifest["splits"].values())


# --- list and show


def test_every_command_has_help() -> None:
    for command in ("list", "build", "show", "download"):
        assert command in invoke("--help").output
        assert "Usage" in invoke(command, "--help").output


def test_list_names_licences_and_counts() -> None:
    output = invoke("list").output
    for words in ("quasar_t", "BSD-2-Clause", "37012", "none stated", "all_ratings"):
        assert words in output.replace("\n", "")


def test_show_prints_examples_and_shortens_documents(tmp_path: Path) -> None:
    raw = folio(tmp_path / "raw", {**ROW, "premises": ["[bold]" + "long " * 400]})
    for arguments in (("folio", "--raw", raw), (tmp_path / "out" / "train.jsonl",)):
        invoke("build", "folio", "--raw", raw, "--out", tmp_path / "out")
        result = invoke("show", *arguments)
        assert result.exit_code == 0, result.output
        assert "[bold]long" in result.output and "of 2005 characters" in " ".join(result.output.split())
        assert "C." in result.output and "label" in result.output
    assert "no such file" in said_by("show", tmp_path / "none.jsonl")
