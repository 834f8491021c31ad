"""The verbs `answers`, `documents` and `summary`, on a tiny model and tiny files of questions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from question_checks import problems
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from builders import make_decoder, make_encoder, make_model, make_tokenizer
from diekae import DiekaeModel
from diekae.answering.confidence import CALIBRATIONS
from diekae.answering.reading_confidence import ReadingConfidence, read_fitted, write_fitted
from diekae.models import load_decoder
from diekae_research.cli import typer_app
from diekae_research.documents import questions, reading
from diekae_research.documents.figures import summary
from diekae_research.documents.questions import is_right, questions_of, read_rows


def document(number: int, thing: str, split: str) -> dict[str, Any]:
    text = f"the {thing} was painted green\n\nthe {thing} is by the sea"
    asked = [
        {"kind": "name", "question": f"what is painted green by the sea in {thing}", "answers": [thing]},
        {"kind": "yes_no", "question": f"is the {thing} green", "answers": ["yes"]},
        {"kind": "paraphrase", "question": f"where is the {thing}", "answers": ["by the sea"]},
        {"kind": "unanswerable", "question": f"how tall is the {thing}", "answers": []},
        {"kind": "unanswerable", "question": "who has a horse", "answers": []},
    ]
    return {"id": f"d{number}", "title": thing, "split": split, "text": text, "questions": asked}


ROWS: dict[str, list[dict[str, Any]]] = {
    "documents": [document(0, "house", "test"), document(1, "tower", "test"), document(2, "boat", "development")],
    "languages": [
        {
            "language": "de",
            "text": "das Haus ist rot",
            "questions": [
                {"question": "was ist rot", "answers": ["Haus"], "paraphrased": False},
                {"question": "welche Farbe hat es", "answers": ["rot"], "paraphrased": True},
            ],
        }
    ],
    "sentences": [
        {"kind": "name", "text": f"the {thing} is red", "question": f"what is the {thing}", "answer": "red"}
        for thing in ("house", "tower", "bridge")
    ],
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a decoder and a bank; the questions are the tiny ones."""
    make_decoder(max_position_embeddings=512).save_pretrained(tmp_path / "decoder")
    make_tokenizer().save_pretrained(tmp_path / "decoder")
    decoder, tokenizer = load_decoder(str(tmp_path / "decoder"), dtype=torch.float32)
    make_model("attention", decoder=decoder, tokenizer=tokenizer).save_pretrained(tmp_path / "bank")
    for module in ("questions", "answers", "measure"):
        monkeypatch.setattr(f"diekae_research.documents.{module}.read_rows", ROWS.__getitem__)
    return tmp_path


def invoke(*arguments: object) -> Result:
    result = CliRunner(env={"COLUMNS": "300"}).invoke(typer_app, list(map(str, arguments)))
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result


def test_an_untrained_bank_in_all_layers_answers_as_the_prompt_does(place: Path) -> None:
    options = ("--decoder", place / "decoder", "--sets", "documents", "--sets", "sentences", "--format", "plain")
    result = invoke("answers", *options, "--limit", 4, "--dtype", "fp32", "--json", place / "answers.json")
    written = json.loads((place / "answers.json").read_text())
    assert list(written["sets"]) == ["documents", "sentences"]
    assert list(written["sets"]["sentences"]["ways"]) == ["bare", "prompted", "ours"]
    rows = written["sets"]["sentences"]["answers"]
    assert [row["wanted"] for row in rows] == ["red"] * 3 and all(row["prompted"] == row["ours"] for row in rows)
    settings = written["settings"]
    assert settings["layers"] == [0, 1, 2, 3] and settings["sets"] == ["documents", "sentences"]
    assert (settings["data"], settings["bank"], settings["device"], settings["limit"]) == (None, None, "cpu", 4)
    assert "sentences: of 3 right: bare" in result.output and str(place) not in json.dumps(settings["bank"])


def test_answers_of_a_bank_and_of_chosen_layers(place: Path) -> None:
    common = ("answers", "--decoder", place / "decoder", "--sets", "sentences", "--ways", "ours", "--dtype", "fp32")
    for options, layers in ((("--bank", place / "bank"), [0, 1, 2, 3]), (("--layers", "1,2"), [1, 2])):
        invoke(*common, *options, "--json", place / "answers.json")
        written = json.loads((place / "answers.json").read_text())
        assert written["settings"]["layers"] == layers and list(written["sets"]["sentences"]["ways"]) == ["ours"]
    wrong = CliRunner().invoke(typer_app, ["answers", "--sets", "sentence"])
    assert "--sets 'sentence' is not known; choose one of documents" in str(wrong.exception)


def test_documents_are_searched_and_answered_in_every_way(place: Path) -> None:
    (place / "more.jsonl").write_text(
        json.dumps({"knowledge": ["a ship", "and a lake"], "input": "x", "target": "y"}) + "\n"
    )
    options = ("--decoder", place / "decoder", "--format", "qa", "--dtype", "fp32", "--more", place / "more.jsonl")
    result = invoke("documents", *options, "--json", place / "documents.json")
    written = json.loads((place / "documents.json").read_text())
    assert written["recall"]["words shared"]["n"] == 2 and written["recall"]["de, paraphrased"]["n"] == 1
    assert sum(count for _, count in written["silence"]["said_not_there"].values()) == 10
    assert {name: row["n"] for name, row in written["ways"].items()} == dict.fromkeys(
        ("bare", "prompt_whole", "whole", "prompt", "ours"), 6
    )
    assert written["same_words_whole"] == 1, "an untrained bank in all layers reads exactly"
    rows = written["answers"]
    assert len(rows) == 10 and {row["ours"]["document"] for row in rows} <= {"d0", "d1", "d2", "de-0"}
    assert not any(row["ours"]["right"] for row in rows if row["kind"] == "unanswerable")
    assert written["settings"]["split"] == "test" and written["settings"]["calibrate"] is False
    assert "ours: " in result.output and "first token: " in result.output


def test_search_alone_is_measured_with_an_encoder(place: Path, tmp_path: Path) -> None:
    options = ("--decoder", place / "decoder", "--format", "qa", "--search-only", "--json", tmp_path / "search.json")
    invoke("documents", *options, "--embedder", make_encoder(tmp_path / "tiny-encoder"))
    written = json.loads((tmp_path / "search.json").read_text())
    assert written["ways"] == {} and written["answers"] == [] and written["recall"]["words shared"]["n"] == 2
    assert written["search"]["passages"] >= 4 and written["search"]["seconds"] > 0 and written["fill_seconds"] > 0
    assert written["settings"]["embedder"].startswith("tiny-encoder@"), "the name, not the path"
    assert written["silence"]["threshold"] == CALIBRATIONS["encoder"].threshold


def test_the_confidence_is_calibrated_on_the_development_half(place: Path) -> None:
    invoke("documents", "--calibrate", "--decoder", place / "decoder", "--format", "qa", "--json", place / "c.json")
    written = json.loads((place / "c.json").read_text())
    search = written["search"]
    assert len(search["weights"]) == 4 and 0 <= search["threshold"] <= 1 and "reading" not in written
    counts = [search[size]["said_not_there"] for size in ("one", "all")]
    assert counts[0].keys() == counts[1].keys() == {"near", "far", "answerable", "not_found"} and "more" not in search
    asked = len(questions_of("development"))
    for count in counts:  # in each size of store
        assert sum(number for kind, (_, number) in count.items() if kind != "not_found") == asked


def test_the_confidence_of_what_is_read_is_fitted_for_each_format(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FACTS", 5)
    colours = {"house": "green", "tower": "blue", "bridge": "red", "ship": "white", "king": "black", "horse": "grey"}
    rows = [
        {
            "knowledge": f"the {thing} is by the sea. the {thing} is {colour}. " + "it has stone and water. " * 6,
            "input": f"what is the colour of the {thing}",
            "target": colour,
        }
        for thing, colour in colours.items()
    ]
    (place / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    of_chats = ReadingConfidence("a decoder", "chat", 1, (0.5, 0.25), (1.0, 0.0, 2.0), 0.75)
    write_fitted(place / "fitted.json", [of_chats, of_chats._replace(format="qa")])
    options = ("--decoder", place / "decoder", "--format", "qa", "--more", place / "more.jsonl")
    invoke("documents", "--calibrate", *options, "--out", place / "fitted.json", "--json", place / "c.json")
    written = json.loads((place / "c.json").read_text())["reading"]
    fitted = {each.format: each for each in read_fitted(place / "fitted.json")}
    assert fitted.keys() == {"chat", "qa"} and fitted["chat"] == of_chats, "those of other formats are kept"
    assert fitted["qa"].layer == written["layer"] and fitted["qa"].threshold == written["threshold"]
    assert len(fitted["qa"].weights) == 32 and written["more"].keys() == written["one"].keys()


def test_the_confidence_learns_to_tell_texts_with_an_answer_from_texts_without() -> None:
    model = DiekaeModel.exact(make_decoder(max_position_embeddings=512), make_tokenizer(), format="qa")
    things = ("house", "tower", "bridge", "ship", "king", "horse", "river", "castle")
    with_answer, without = "the {} is made of stone", "the {} is by the sea"
    pairs = [
        reading.Pair(f"what is the {thing}", text.format(thing), text is with_answer)
        for thing in things
        for text in (with_answer, without)
    ]
    states = reading.states_of(model, [pair[:2] for pair in pairs], (1,))[:, 0]
    right = np.array([pair.answers for pair in pairs])
    weights = reading.regression(states[:8], right[:8], penalty=10.0)
    assert roc_auc_score(right[8:], states[8:] @ weights[:-1]) == 1.0


def test_a_text_is_cut_where_it_answers() -> None:
    text = "The tower is old. It is 84 metres tall, they say. " + "It stands by the sea in the town. " * 3
    whole, rest = reading.with_and_without("How tall is it?", text, "84 metres")
    assert (whole.text, whole.answers, rest.answers) == (text, True, False)
    assert rest.text == text.replace("It is 84 metres tall, they say. ", "")
    assert len(reading.with_and_without("How tall is it?", "It is 84 metres tall. It is old.", "84 metres")) == 1
    assert reading.with_and_without("How tall is it?", text, "90 metres") == []


def test_questions_are_drawn_and_say_how_near_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "read_rows", ROWS.__getitem__)
    near = [question["near"] for _, question in questions_of("test")]
    assert near == ["", "", "", "near", "far"] * 2
    assert len(questions_of("test", 3)) == 3 and questions_of("test", 3) == questions_of("test", 3)


def test_an_answer_is_right_by_its_kind() -> None:
    assert is_right("Yes, it is.", {"kind": "yes_no", "answers": ["yes"]})
    assert not is_right("It is, yes.", {"kind": "yes_no", "answers": ["yes"]})
    assert is_right("by The Sea!", {"kind": "phrase", "answers": ["the sea"]})
    assert not is_right("the sea", {"kind": "unanswerable", "answers": []})


def test_a_summary_counts_by_kind_and_has_wilsons_interval() -> None:
    rows = [
        {"kind": kind, "ours": {"right": n % 2 == 0, "text": "x", "seconds": 2.0}} for n, kind in enumerate("ab" * 5)
    ]
    figures = summary([*rows, {"kind": "unanswerable", "ours": {"right": False, "text": "", "seconds": 2.0}}], "ours")
    assert figures["kinds"] == {"a": {"right": 5, "empty": 0, "n": 5}, "b": {"right": 0, "empty": 0, "n": 5}}
    assert (figures["right"], figures["n"], figures["seconds"]) == (5, 10, 2.0)
    assert figures["interval"] == pytest.approx([0.2366, 0.7634], abs=1e-4)


def test_the_questions_that_ship_have_no_problem_and_a_broken_one_is_named() -> None:
    documents, passages = read_rows("documents"), read_rows("languages")
    assert (len(documents), sum(len(document["questions"]) for document in documents)) == (20, 320)
    assert not list(problems(documents, passages))
    documents[0]["questions"][0]["answers"] = ["nowhere at all"]
    passages[0]["questions"].reverse()
    reports = list(problems(documents, passages))
    assert any("The answer is not in the text: nowhere at all" in report for report in reports)
    assert any("needs a question with shared words and then a paraphrased one" in report for report in reports)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("banks", "| run | encoder | data | n | D(x) | D(K,x) | ours | recovered | grounded |"),
        ("speed", "| what | aim | measured | floor |"),
        ("tables", "table1.json: "),
        ("editing", "methods.json: few"),
    ],
)
def test_stored_results_are_printed_as_tables(kind: str, words: str) -> None:
    output = invoke("summary", kind, "--results", Path(__file__).parents[2] / "results").output
    assert words in output
    rows = [line.count("|") for line in output.splitlines() if line.startswith("|")]
    assert len(rows) > 3 and min(rows) > 3


def test_a_missing_folder_of_results_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(typer_app, ["summary", "speed", "--results", str(tmp_path / "none")])
    assert "give the folder of results with --results" in str(result.exception)
