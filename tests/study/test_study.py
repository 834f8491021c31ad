"""A bank of one's own: documents become windows and questions, the time becomes steps, and the result a recipe."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import make_decoder, make_model, make_tokenizer
from diekae.data.example import Example
from diekae.recipe import read_recipe
from diekae.study import StudyOptions, run, run_study
from diekae.study.folder import PARTS, TOKENS, cut, read_folder, shipped_documents
from diekae.study.plan import count_layers, fit_steps, measure_pace
from diekae.study.questions import Studied, find_question, follows, is_about, sentences

TEXT = "The ferry to Skerrow leaves at nine. A ticket costs twelve crowns. Dogs travel free of charge on weekdays."
TINY = StudyOptions(minutes=5.0, layers=2, questions=12, batch_size=4)


def write_documents(folder: Path, count: int = 6) -> Path:
    folder.mkdir()
    for number, name in enumerate("castle bridge tower harbour island river".split()[:count]):
        (folder / f"{number}.txt").write_text(f"the {name} is red and the house is blue . the {name} was built by king")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "broken.json").write_text("{")
    return folder


def test_a_folder_is_divided_by_document(tmp_path: Path) -> None:
    found = read_folder(write_documents(tmp_path / "documents"), None)
    names = [{window.document for window in found.windows[part]} for part in PARTS]
    assert found.documents == 6 and all(names) and sum(map(len, names)) == 6, "no document is in two parts"
    assert [Path(file).name for file in found.skipped] == ["picture.png"]
    assert [Path(file).name for file, _ in found.failed] == ["broken.json"]


def test_few_documents_and_a_wrong_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds 2 readable documents; expected at least 3.*broken.json"):
        read_folder(write_documents(tmp_path / "documents", 2), None)
    with pytest.raises(FileNotFoundError, match="no folder at"):
        read_folder(tmp_path / "nowhere", None)


def test_windows_hold_the_whole_text_and_are_short() -> None:
    text = "\n\n".join(f"Paragraph {number} says that the river is {number} metres deep." for number in range(200))
    windows = cut(text, None)
    assert len(windows) > 3 and all(len(window) // 4 <= TOKENS for window in windows)
    assert "".join(windows).replace("\n", "") == text.replace("\n", "")


def test_documents_come_with_the_package() -> None:
    documents = shipped_documents()
    assert len(documents) >= 10 and all(len(text.split()) > 100 for text in documents.values())
    assert all(read_folder(None, None).windows[part] for part in PARTS)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (" When does the ferry leave?\nAnswer: at nine", "When does the ferry leave?"),
        (" It leaves at nine.", ""),
        (" Why?", ""),
        ("", ""),
    ],
)
def test_a_question_is_found_on_the_first_line(text: str, question: str) -> None:
    assert find_question(text) == question


def test_questions_and_answers_must_be_about_the_text() -> None:
    assert is_about("When does the ferry to Skerrow leave?", TEXT)
    assert not is_about("What is the name of the bakery in Marrow Lane?", TEXT)
    assert follows("It leaves at nine", TEXT, "When does the ferry leave?")
    assert not follows("It leaves at seven thirty", TEXT, "When does the ferry leave?")
    assert not follows("The ferry", TEXT, "When does the ferry leave?"), "an echo says nothing"
    assert sentences("# Heading\n" + TEXT) == TEXT.replace(". ", ".\n").split("\n")


def test_layers_are_counted_from_what_is_named() -> None:
    assert count_layers(30, None, None, 100) == 24
    assert count_layers(30, 7, None, 100) == 7 and count_layers(30, None, 1250, 100) == 12
    assert count_layers(30, None, 99_999, 100) == 30
    for layers, size, message in ((31, None, "from 1 to the decoder's 30"), (None, 99, "less than one layer"),
                                  (3, 400, "give one of them")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            count_layers(30, layers, size, 100)


def test_steps_fit_the_time_and_the_questions() -> None:
    assert fit_steps(10, 6.0, 10_000, 8, 3) == 100
    assert fit_steps(600, 1.0, 80, 8, 3) == 30, "no more than three times over"
    with pytest.raises(ValueError, match="0.5 minutes are left for training and a step takes 6.0 s"):
        fit_steps(0.5, 6.0, 1000, 8, 3)


def test_a_batch_is_halved_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(_model: Any, _prompts: Any, size: int) -> float:
        if size > most:
            raise torch.OutOfMemoryError("out of memory")
        return 2.0

    monkeypatch.setattr("diekae.study.plan._step_seconds", seconds)
    most = 2
    pace = measure_pace(make_model("attention"), [], 8)
    assert (pace.batch_size, pace.accumulation, pace.seconds) == (2, 4, 8.0)
    most = 0
    with pytest.raises(MemoryError, match="not even one"):
        measure_pace(make_model("attention"), [], 8)


def test_a_bank_is_trained_from_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny decoder asks no questions, so they are given; all else is real."""

    def study(_model: Any, windows: Any, questions: int, *_: Any, **__: Any) -> Studied:
        rows = [Example((w.text,), "what is the house", w.text.split()[-1]) for w in windows for _ in range(6)]
        return Studied(rows[:questions], len(rows))

    monkeypatch.setattr(run, "study", study)
    lines: list[str] = []
    decoder, begun = make_decoder(), time.monotonic()
    model, result = run_study(
        decoder, make_tokenizer(), "tiny", write_documents(tmp_path / "documents"), tmp_path / "run", TINY,
        report=lines.append,
    )  # fmt: skip
    assert time.monotonic() - begun < 60 * TINY.minutes
    assert "6 documents" in lines[0] and "1 could not be read" in lines[0] and "2 of 4 layers read" in lines[-1]
    assert len(model.layers) == 2 and result["sets"]["jsonl"]["n"] > 0 and "recovered" in result["untrained"]
    recipe = read_recipe(tmp_path / "run" / "recipe.toml")
    assert recipe.diekae is not None and recipe.diekae.layers == tuple(model.layers)
    decided = json.loads((tmp_path / "run" / "study.json").read_text())
    assert decided["layers"] == list(model.layers) and result["study"] == decided
    again, _ = run_study(decoder, make_tokenizer(), "tiny", tmp_path / "gone", tmp_path / "run", TINY, resume=True)
    assert again.bank.fingerprint() == model.bank.fingerprint(), "a run that ended is not trained on"


def test_no_question_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="questions about the documents to test have an answer"):
        run_study(
            make_decoder(), make_tokenizer(), "tiny", write_documents(tmp_path / "documents"), tmp_path / "run", TINY
        )
