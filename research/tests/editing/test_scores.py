"""What edits are scored with, against values worked out by hand."""

import numpy as np
import pytest
import torch

from builders import make_model
from diekae.data.prompt import Prompt
from diekae.edit import Edit
from diekae.edit.gate import MentionGate
from diekae.edit.trained_parts import TrainedParts
from diekae_research.data.case import Case
from diekae_research.editing.cases import choose, divide
from diekae_research.editing.edited import edited_method, gate_shares
from diekae_research.editing.measure import EditBench
from diekae_research.editing.scores import ANSWER, answer, matches, prompt_of, successes, summary
from diekae_research.evaluation.intervals import harmonic
from diekae_research.methods.ours import as_methods

CASES = [
    Case(0, "the house is", "house", "red", "blue", ("by the sea the house is",), ("the tower is", "the castle is")),
    Case(1, "the bridge is", "bridge", "green", "gold", (), ("the wall is",)),
]


def test_es_ps_ns_by_hand() -> None:
    prompter = make_model("reader").need_prompter()
    # New and true after: the prompt and paraphrase of the first, its two neighbours, the second's prompt and neighbour.
    values = [(1.0, 2.0), (3.0, 2.0), (5.0, 1.0), (1.0, 4.0), (2.0, 2.5), (9.0, 1.0)]
    seen: list[Prompt] = []

    def score(rows: list[Prompt]) -> np.ndarray:
        seen.extend(rows)
        return np.array([value for pair in values for value in pair])

    columns = successes(prompter, score, CASES)  # type: ignore[arg-type]
    assert columns["es"] == [1, 1] and columns["ps"] == [0, 0] and columns["n_ps"] == [1, 0]
    assert columns["ns"] == [0.5, 1]
    found = summary(columns)
    assert (found["es"]["value"], found["ps"]["value"], found["ns"]["value"]) == (100, 0, 75)
    assert found["s"] == 0 and harmonic([100, 50, 100]) == pytest.approx(75)
    texts = [prompter.tokenizer.decode(row.input) for row in seen[::2]]
    assert texts == [text for case in CASES for text in (case.prompt, *case.paraphrases, *case.neighbours)]
    assert [prompter.tokenizer.decode(row.target) for row in seen[:2]] == ["red", "blue"]


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        (" English.", "English", (1, 1)),
        (" English and French", "English", (0, 1)),
        (" the English\nmore", "English", (1, 1)),
        (" Englishman.", "English", (0, 0)),
        (" not English.", "English", (0, 0)),
        ("", "English", (0, 0)),
    ],
)
def test_a_continuation_matches_a_target(text: str, target: str, expected: tuple[float, float]) -> None:
    assert matches(text, target) == expected


def test_an_answer_ends_with_its_line_or_mark() -> None:
    assert answer(" New York, in the east") == "New York" and answer("x\ny") == "x" and answer("") == ""


def test_an_edited_model_is_scored_as_it_answers() -> None:
    model = make_model("reader")
    method = edited_method("memory", model, MentionGate(), TrainedParts(), [case.edit for case in CASES])
    bare, prompted, _ = as_methods(model)
    bench = EditBench(model.need_prompter(), bare)
    unrelated = [Prompt(model.anchor, (), (20, 21, 22), (23, 24))]
    found = bench.method(method, CASES, unrelated)
    assert found["n"] == 2 and found["drift"] == 0 and found["perplexity"] == found["perplexity_bare"]
    assert found["unchanged"]["value"] == 100
    assert found["columns"]["ns"] == bench.method(bare, CASES)["columns"]["ns"], "no edit opens for the neighbours"
    prompt = prompt_of(model.need_prompter(), CASES[0], CASES[0].prompt, CASES[0].new)
    model.editor = method.edits
    ids = torch.tensor([prompt.anchor + prompt.input])
    with torch.no_grad():
        expected = -model(ids).logits[0, -1].log_softmax(-1)[prompt.target[0]]
    assert float(bench.nll(method, [prompt])[0]) == pytest.approx(float(expected), abs=1e-4)
    text = bench.texts(method, [prompt])[0]
    made = model.generate(ids, max_new_tokens=ANSWER, do_sample=False, pad_token_id=0)
    assert text == model.need_prompter().tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip()
    model.editor = None
    scores = [float(bench.nll(way, [prompt])[0]) for way in (bare, prompted)]
    assert len({round(value, 5) for value in (*scores, float(expected))}) == 3, "each method has its own values"
    shares = gate_shares(method, [prompt, unrelated[0]], [CASES[0].edit.statement, None])
    assert shares == {"n": 2, "opened": 50, "right": 50, "alone": 50}


def test_cases_are_divided_and_chosen() -> None:
    cases = [Case(n, f"a{n} is", f"a{n}", "x", "y", ("p",) if n % 4 < 2 else (), ("q",)) for n in range(100)]
    parts = divide(cases)
    assert [len(part) for part in parts] == [85, 8, 7] and not set(parts.validation) & set(parts.test)
    chosen = choose(parts.test, 3, 0)
    assert all(case.paraphrases for case in chosen) and chosen == choose(parts.test, 3, 0)
    assert cases[0].edit == Edit("a0 is", "a0", "x", target_true="y")
