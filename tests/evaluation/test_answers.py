"""Scores of greedy answers, on a tiny model whose answers are known, and by SQuAD's definitions."""

import dataclasses

import pytest
import torch

from builders import make_model, make_prompts
from diekae.data.prompt import Prompt
from diekae.evaluation.answers import exact_match, f1, first_line, normalize, score_answers
from diekae.model import DiekaeModel


def greedy_tokens(model: DiekaeModel, prompt: Prompt) -> tuple[int, ...]:
    """Three tokens that the decoder generates after K and x."""
    ids = torch.tensor([[*prompt.anchor, *prompt.knowledge, *prompt.input]])
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0}
    generated = model.decoder.generate(ids, min_new_tokens=3, max_new_tokens=3, **options)
    return tuple(generated[0, ids.shape[1] :].tolist())


def test_answers_that_hold_the_target_are_right_and_others_are_not() -> None:
    # In all layers and untrained, ours is D(K, x).
    model = make_model("attention", effect=0.0)
    prompts = [dataclasses.replace(p, target=greedy_tokens(model, p)) for p in make_prompts(4)]
    seen: list[tuple[str, int, int]] = []
    scores = score_answers(model, prompts, batch_size=3, progress=lambda *step: seen.append(step))
    assert set(scores) == {"bare", "prompted", "ours"}
    assert scores["ours"] == scores["prompted"]
    assert scores["prompted"]["right"] == 1.0, "the answer begins with the target"
    assert scores["bare"]["right"] < 1.0, "K must matter, or this shows nothing"
    for way in scores:
        assert 0.0 <= scores[way]["exact"] <= scores[way]["right"] <= 1.0
        assert scores[way]["exact"] <= scores[way]["f1"] <= 1.0
    assert seen == [(f"answers of {way}", done, 4) for way in ("bare", "prompted", "ours") for done in (3, 4)]


def test_scores_are_means_over_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = make_model(), make_prompts(2)
    tokenizer = model.need_prompter().tokenizer
    targets = [str(tokenizer.decode(list(prompt.target))) for prompt in prompts]
    answers = {prompts[0]: f"{targets[0]}\n{targets[1]}", prompts[1]: "something else"}
    monkeypatch.setattr(
        "diekae.evaluation.answers.answer_greedily", lambda _model, batch, _way, _tokens: [answers[p] for p in batch]
    )
    assert score_answers(model, prompts)["ours"] == {"exact": 0.5, "f1": 0.5, "right": 0.5}


def test_no_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 prompts"):
        score_answers(make_model(), [])


# The right column is what the official evaluate-v1.1.py gives, worked out by hand from its text.
ANSWERS = [
    ("The  Bridge.", ["bridge"], 1.0, 1.0),
    ("the old stone bridge", ["stone bridge"], 0.0, 0.8),
    ("a an the", ["an"], 1.0, 0.0),  # nothing is left of either: equal, but no word in common
    ("in 1932", ["1932", "the year 1932"], 0.0, 2 / 3),
    ("red red blue", ["red blue blue"], 0.0, 2 / 3),  # words count as often as they stand in both
    ("U.S.A.", ["usa"], 1.0, 1.0),  # punctuation goes before words are cut
    ("well-known", ["well known"], 0.0, 0.0),
    ("Theatre", ["theatre"], 1.0, 1.0),  # no article is taken from inside a word
    ("cat", ["dog"], 0.0, 0.0),
    ("", ["dog"], 0.0, 0.0),
]


@pytest.mark.parametrize(("answer", "references", "exact", "overlap"), ANSWERS)
def test_answers_are_scored_as_squad_does(answer: str, references: list[str], exact: float, overlap: float) -> None:
    assert exact_match(answer, references) == exact
    assert f1(answer, references) == pytest.approx(overlap)


def test_answers_need_references() -> None:
    assert normalize(" An  apple, a day ") == "apple day"
    assert first_line("\n 1932 \nQuestion: no") == "1932"
    for score in (exact_match, f1):
        with pytest.raises(ValueError, match=r"references=\[\] must be a list"):
            score("x", [])
        with pytest.raises(ValueError, match="references='x'"):
            score("x", "x")
