"""A study: documents become windows and questions, time becomes steps, and the decisions become a recipe."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from builders import make_decoder, make_model, make_tokenizer
from diekae.cli import train
from diekae.data.example import Example
from diekae.hub import model_card
from diekae.recipe import read_recipe
from diekae.study import StudyOptions, questions, run, run_study
from diekae.study.estimate import check_disk, count_layers, fit_batch
from diekae.study.folder import PARTS, TOKENS, Window, cut, read_folder, shipped_documents
from diekae.study.plan import VALIDATION, VALIDATIONS, Pace, fit_steps, measure_pace
from diekae.study.questions import find_pair, follows, is_about, sentences
from diekae.study.recipe_file import write_recipe

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
    folder = read_folder(write_documents(tmp_path / "documents"), None)
    names = [{window.document for window in folder.windows[part]} for part in PARTS]
    assert folder.documents == 6 and all(names) and sum(map(len, names)) == 6, "no document is in two parts"
    assert [Path(file).name for file in folder.skipped] == ["picture.png"]
    assert [Path(file).name for file, _ in folder.failed] == ["broken.json"]


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
    ("text", "pair"),
    [
        (" When does the ferry leave?\nAnswer: at nine\n\n<pad>", ("When does the ferry leave?", "at nine")),
        (" When does the ferry leave? Now?\nAnswer: at nine\nText", ("When does the ferry leave?", "at nine")),
        (" When does the ferry leave?\nAnswer: at ni", ("", "")),  # it may have been cut off
        (" When does the ferry leave?\n\nText: a\n", ("", "")),
        (" It leaves at nine.\nAnswer: at nine\n\n", ("", "")),
        (" Why?\nAnswer: so\n\n", ("", "")),
        ("", ("", "")),
    ],
)
def test_a_question_and_its_answer_are_found_on_the_first_lines(text: str, pair: tuple[str, str]) -> None:
    assert find_pair(text) == pair


def test_questions_and_answers_must_be_about_the_sentence() -> None:
    sentence = "The ferry to Skerrow costs 12 crowns and leaves at nine."
    assert is_about("How much does the ferry cost?", sentence), "costs and cost are one word"
    assert not is_about("What is the name of the bakery in Marrow Lane?", sentence)
    assert follows("at nine", sentence, "When does the ferry leave?")
    assert follows("12 crowns", sentence, "What is the cost of the ferry?")
    for answer in ("at seven thirty", "the ferry", "13 crowns", "12 crowns on 1 May", ""):
        assert not follows(answer, sentence, "When does the ferry leave?"), answer
    assert sentences("# Heading\n" + TEXT) == TEXT.replace(". ", ".\n").split("\n")


def test_the_decoders_own_questions_are_kept_if_the_text_makes_the_answer_likelier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replies = {
        "A ticket costs twelve crowns.": " What does a ticket cost?\nAnswer: twelve crowns\n\n",
        "Dogs travel free of charge on weekdays.": " When do dogs travel free?\nAnswer: on Sundays\n\n",
        "The ferry to Skerrow leaves at nine.": " When does the ferry leave?\nAnswer: at nine\n\n",
    }
    drawn: list[bool] = []
    monkeypatch.setattr(
        questions, "continue_sentences", lambda _m, texts, draw: drawn.append(draw) or [replies[text] for text in texts]
    )
    monkeypatch.setattr(questions, "likelier", lambda _m, examples: [e for e in examples if "cost" in e.input])
    kept = questions.study(make_model("attention"), [Window("a", TEXT)], 9, 0, "asking")
    assert kept == [Example((TEXT,), "What does a ticket cost?", "twelve crowns")], "each once"
    assert drawn == [False] + [True] * (questions.ROUNDS - 1), "the likeliest questions first"
    # A few are wanted even if the time is over, and no more than a few.
    windows = [Window("a", f"{TEXT} {number}") for number in range(40)]
    late = questions.study(make_model("attention"), windows, 99, 0, "asking", until=time.monotonic() - 1)
    assert questions.FEWEST <= len(late) < 20


def test_layers_are_counted_from_what_is_named() -> None:
    assert count_layers(30, None, None, 100) == 24
    assert count_layers(30, 7, None, 100) == 7 and count_layers(30, None, 1250, 100) == 12
    assert count_layers(30, None, 99_999, 100) == 30
    for layers, size, message in ((31, None, "from 1 to the decoder's 30"), (None, 99, "less than one layer"),
                                  (3, 400, "give one of them")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            count_layers(30, layers, size, 100)


def test_steps_fit_the_time_and_the_questions() -> None:
    validating = (VALIDATIONS + 1) * VALIDATION // 8
    assert fit_steps(10, 6.0, 10_000, 99, 8, 3) == 100 - validating
    assert fit_steps(10, 6.0, 10_000, 8, 8, 3) == 100 - (VALIDATIONS + 1)
    assert fit_steps(600, 1.0, 80, 99, 8, 3) == 30, "no more than three times over"
    with pytest.raises(ValueError, match="0.5 minutes are left for training and a step takes 6.0 s"):
        fit_steps(0.5, 6.0, 1000, 99, 8, 3)


def test_a_batch_is_halved_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(_model: Any, _prompts: Any, size: int) -> float:
        if size > most:
            raise torch.OutOfMemoryError("out of memory")
        return 2.0

    monkeypatch.setattr("diekae.study.plan._step_seconds", seconds)
    most = 2
    pace = measure_pace(make_model("attention"), [], 8, 8)
    assert (pace.batch_size, pace.accumulation, pace.seconds) == (2, 4, 8.0)
    pace = measure_pace(make_model("attention"), [], 8, 1)
    assert (pace.batch_size, pace.accumulation) == (1, 8), "no more at once than was estimated to fit"
    most = 0
    with pytest.raises(MemoryError, match="not even one"):
        measure_pace(make_model("attention"), [], 8, 8)


def test_the_batch_is_halved_until_its_estimate_fits() -> None:
    assert [fit_batch(100, available, 8) for available in (900, 799, 399, 100)] == [8, 4, 2, 1]
    with pytest.raises(MemoryError, match="needs 2.0 GB of memory for one question, and 1.5 GB can be used"):
        fit_batch(2 * 10**9, 1.5e9, 8)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_disk(tmp_path / "run", 10**6)
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=60e6))
    with pytest.raises(OSError, match="has 60 MB free, and training needs about 74 MB"):
        check_disk(tmp_path / "run", 10**6)


def test_what_cannot_be_done_is_said_before_the_first_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "study", lambda *_, **__: pytest.fail("a question was asked"))
    arguments = (make_decoder(), make_tokenizer(), "tiny", write_documents(tmp_path / "documents"), tmp_path / "run")
    with pytest.raises(ValueError, match="--layers 5 must be from 1 to the decoder's 4"):
        run_study(*arguments, StudyOptions(layers=5))
    monkeypatch.setattr("diekae.study.estimate.free_memory", lambda _device: 1000)
    with pytest.raises(MemoryError, match="GB of memory for one question"):
        run_study(*arguments, StudyOptions(layers=2))


def given_questions(_model: Any, windows: Any, questions: int, *_: Any, **__: Any) -> list[Example]:
    """Questions in place of the tiny decoder's, which asks none."""
    rows = [Example((w.text,), "what is the house", w.text.split()[-1]) for w in windows for _ in range(6)]
    return rows[:questions]


def test_a_bank_is_trained_from_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "study", given_questions)
    lines: list[str] = []
    decoder, begun = make_decoder(), time.monotonic()
    model, result = run_study(
        decoder, make_tokenizer(), "tiny", write_documents(tmp_path / "documents"), tmp_path / "run", TINY,
        report=lines.append,
    )  # fmt: skip
    assert time.monotonic() - begun < 60 * TINY.minutes
    assert "6 documents" in lines[0] and "1 could not be read" in lines[0]
    assert "2 of 4 layers read" in lines[1] and "MB of disk" in lines[1] and "at once" in lines[-1]
    assert len(model.layers) == 2 and result["sets"]["jsonl"]["n"] > 0
    untrained = result["study"]["untrained"]
    assert {"recovered", "grounded", "seconds"} <= set(untrained)
    assert set(untrained["answers_right"]) == {"bare", "prompted", "ours"} and set(result["answers_right"]) == {"ours"}
    card = model_card("bank", "tiny", "attention", model.layers, 10, result)
    rows = [line.split(" | ") for line in card.partition("a token of K |")[2].splitlines() if line.startswith("| ")]
    assert [len(row) for row in rows] == [5, 5, 5] and rows[1] != rows[2], "untrained and trained differ"
    assert int(rows[0][4].strip(" |").replace(",", "")) == 2 * int(rows[1][4].strip(" |").replace(",", ""))
    table = train._comparison(result)
    cells = [list(column.cells) for column in table.columns]
    assert len(cells[0]) == 4 and "untrained" in str(cells[0][2]) and all(cells[3]), "right answers in every row"
    assert cells[5][1:] == [str(2 * int(str(cells[5][2]))), *cells[5][2:]], "two of four layers take half"
    recipe = read_recipe(tmp_path / "run" / "recipe.toml")
    assert recipe.diekae is not None and recipe.diekae.layers == tuple(model.layers)
    decided = json.loads((tmp_path / "run" / "study.json").read_text())
    assert decided["layers"] == list(model.layers) and result["study"] == decided
    again, repeated = run_study(
        decoder, make_tokenizer(), "tiny", tmp_path / "gone", tmp_path / "run", TINY, resume=True
    )
    assert again.bank.fingerprint() == model.bank.fingerprint(), "a run that ended is not trained on"
    assert repeated["answers_right"] == result["answers_right"]


@pytest.mark.parametrize("format", ["qa", "chat"])
def test_a_recipe_keeps_names_of_any_characters(tmp_path: Path, format: str) -> None:
    out = tmp_path / 'a "bank" 😀'
    config = {"format": format, "template": "é: {knowledge}\n", "encoder_options": {"rank": 8, "mlp_width": 4}}
    sizes = {"layers": [1, 3], "steps": 20, "batch_size": 2, "gradient_accumulation": 1, "windows": 2}
    write_recipe(out, "user/😀", {**sizes, "config": config}, seed=3)
    recipe = read_recipe(out / "recipe.toml")
    assert (recipe.name, recipe.decoder, recipe.folder) == (out.name, "user/😀", str(out))
    assert recipe.diekae is not None and recipe.diekae.template == config["template"] and recipe.stages[0].seed == 3
    assert recipe.data["train"][0].unrelated > 0 and len(recipe.data["train"]) == (1 if format == "qa" else 2)


def test_training_ends_with_the_time_and_goes_on_when_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine turns out slower than it was timed."""
    monkeypatch.setattr(run, "study", given_questions)
    monkeypatch.setattr(run, "measure_pace", lambda _m, _p, size, _most: Pace(size, 1, 0.001))
    monkeypatch.setattr(run, "EPOCHS", 1000.0)
    for measure in ("_untrained", "_answers"):  # which the test above holds
        monkeypatch.setattr(run, measure, lambda *_: {})
    clock = time.monotonic
    late = [0.0]
    monkeypatch.setattr("diekae.study.plan.time", SimpleNamespace(monotonic=lambda: clock() + late[0]))

    class Slow(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            late[0] = 1e6 if state.global_step == stop else 0.0

    arguments = (make_decoder(), make_tokenizer(), "tiny", write_documents(tmp_path / "documents"), tmp_path / "run")
    stop = 5
    _, result = run_study(*arguments, TINY, callbacks=[Slow()])
    steps = [line["step"] for line in result["log"] if "eval_loss" in line]
    assert steps == [5] and result["study"]["steps"] > 100
    stop = 8
    _, resumed = run_study(*arguments, TINY, callbacks=[Slow()], resume=True)
    assert [line["step"] for line in resumed["log"] if "eval_loss" in line] == [5, 8]


def test_no_question_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="questions about the documents to test have an answer"):
        run_study(
            make_decoder(), make_tokenizer(), "tiny", write_documents(tmp_path / "documents"), tmp_path / "run", TINY
        )
