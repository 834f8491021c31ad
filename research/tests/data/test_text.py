"""Documents as training data: windows of a text, and the folder they come from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diekae.data import DataError, Example
from diekae_research.data.request import BadRecords
from diekae_research.sources import iterate_source, load_source
from diekae_research.sources.text import sentences, windows
from layouts import SPLITS


def line(number: int, words: int = 8) -> str:
    """A sentence of so many words, no two alike."""
    return " ".join([f"S{number}", *(f"w{number}x{place}" for place in range(words - 1))]) + "."


def document(count: int, *, paragraph: int = 5) -> str:
    lines = [line(number) for number in range(count)]
    return "\n\n".join(" ".join(lines[at : at + paragraph]) for at in range(0, count, paragraph)) + "\n"


def words(text: str) -> list[str]:
    return text.split()


def test_a_window_is_knowledge_then_two_sentences_then_one() -> None:
    text = " ".join(line(number) for number in range(5))
    assert windows(text, 300, 40, 30, most=4) == [
        Example((" ".join(line(number) for number in range(3)),), line(3), line(4))
    ]


@pytest.mark.parametrize("knowledge", [20, 50, 90])
def test_windows_follow_one_another_without_gap_or_overlap(knowledge: int) -> None:
    text = document(60)
    found = windows(text, knowledge, 20, 10, most=99)
    assert len(found) > 2
    said = [word for e in found for word in words(f"{e.knowledge[0]} {e.input} {e.target}")]
    assert said == words(text)[: len(said)] and len(said) > 400
    assert all(len(words(e.knowledge[0])) <= knowledge for e in found)
    assert all(e.knowledge[0].endswith(".") and e.knowledge[0] in text for e in found)
    assert all(len(words(e.input)) == 16 and len(words(e.target)) == 8 for e in found[:-1]), "the last has what is left"
    assert len(windows(text, knowledge, 20, 10, most=2)) == 2


def test_knowledge_ends_with_a_paragraph_where_one_ends_late_enough() -> None:
    text = document(40, paragraph=5)  # paragraphs of 40 words
    assert len(words(windows(text, 50, 20, 10, most=1)[0].knowledge[0])) == 40
    assert len(words(windows(text, 70, 20, 10, most=1)[0].knowledge[0])) == 64, "40 words are under two thirds of 70"


def test_one_sentence_is_the_input_where_two_are_too_long_and_the_target_is_cut() -> None:
    text = " ".join(line(number, 12) for number in range(4))
    found = windows(text, 12, 20, 5, most=1)[0]
    assert (found.knowledge[0], found.input) == (line(0, 12), line(1, 12))
    assert found.target == " ".join(words(line(2, 12))[:5])


def test_a_short_tail_is_no_window_but_a_short_document_is_one() -> None:
    assert len(windows(document(17), 80, 20, 10, most=9)) == 1
    assert len(windows(document(18), 80, 20, 10, most=9)) == 2, "what is left holds a quarter of K's words"
    assert len(windows(document(3), 80, 20, 10, most=9)) == 1
    assert windows(document(2), 80, 20, 10, most=9) == []
    assert windows("", 80, 20, 10, most=9) == windows(" \n\n \n", 80, 20, 10, most=9) == []


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("One two three four. Five six seven eight!", ["One", "Five"]),
        ('He said "no more of it." Then he went home.', ["He", "Then"]),
        ("We met Dr. Smith in town today. He was tired of it.", ["We", "He"]),
        ("# A Title\n\nThe first words of it\n\nand no full stop here", ["#", "and"]),
        ("1. the first of the points. 2. the second of the points.", ["1.", "2."]),
        ("a line that is\nwrapped at its end. The next is\nwrapped too.", ["a", "The"]),
    ],
)
def test_sentences_end_at_full_stops_and_empty_lines(text: str, starts: list[str]) -> None:
    found = sentences(text, 40)
    assert [text[s.start : s.end].split()[0] for s in found] == starts
    assert sum(s.words for s in sentences(text, 40)) == len(text.split()), "a word was lost"


def test_a_text_without_full_stops_is_cut_by_words() -> None:
    text = " ".join(f"w{number}" for number in range(95))
    found = sentences(text, 40)
    assert [s.words for s in found] == [40, 40, 15]
    assert [s.last for s in found] == [False, False, True]


def write(folder: Path, count: int = 60) -> Path:
    for number in range(count):
        path = folder / ("deep/er" if number % 2 else "") / f"{number:03}.{'md' if number % 3 else 'txt'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Document {number} begins with this. " + document(12), encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\xff")
    return folder


def documents(folder: Path, split: str) -> list[str]:
    found = iterate_source("text", folder=folder, split=split, bad=BadRecords(strict=True))  # type: ignore[arg-type]
    return [match.group(1) for e in found if (match := re.match(r"Document (\d+)", e.knowledge[0]))]


def test_each_document_is_in_one_part_whatever_the_others(tmp_path: Path) -> None:
    folder = write(tmp_path)
    parts = {split: documents(folder, split) for split in SPLITS}
    assert sorted(name for part in parts.values() for name in part) == sorted(str(n) for n in range(60))
    assert len(parts["train"]) > 40 and parts["validation"] and parts["test"]
    for path in list(folder.rglob("0[0-2]*.*")):
        path.unlink()
    for split in SPLITS:
        assert documents(folder, split) == [name for name in parts[split] if int(name) >= 30]


def test_the_order_on_disk_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path)
    first = load_source("text", folder=folder, split="train")
    real = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: iter(sorted(real(self, pattern), reverse=True)))
    assert load_source("text", folder=folder, split="train") == first


def test_options_reach_the_windows(tmp_path: Path) -> None:
    folder = write(tmp_path)
    options = {"knowledge": "24", "windows": "1"}
    found = load_source("text", folder=folder, split="train", options=options)
    assert all(len(words(e.knowledge[0])) <= 24 for e in found)
    assert len(found) == len(documents(folder, "train"))
    with pytest.raises(DataError, match="option windows of source 'text' is 0; expected at least 1"):
        load_source("text", folder=folder, split="train", options={"windows": 0})


def test_bad_documents_are_counted_and_named(tmp_path: Path) -> None:
    folder = write(tmp_path)
    name = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.txt"))
    bad = BadRecords()
    for number, place in enumerate(name):
        (folder / place).write_bytes(b"caf\xe9 is not UTF-8" if number % 2 == 0 else b"too short.")
    kept = list(iterate_source("text", folder=folder, split="train", bad=bad))
    assert kept and bad.count > 5
    assert bad.first is not None and re.match(r"\S+\.txt: (not UTF-8 \(byte 3\)|shorter than three sent)", bad.first)
    with pytest.warns(UserWarning, match=rf"{bad.count} bad records left out, the first \S+\.txt"):
        assert load_source("text", folder=folder, split="train") == kept
    with pytest.raises(DataError, match=rf"{folder}/\S+\.txt: "):
        load_source("text", folder=folder, split="train", strict=True)


def test_a_folder_without_documents_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(DataError, match=r"no \.txt or \.md file in .* from your own documents"):
        load_source("text", folder=tmp_path, split="train")
