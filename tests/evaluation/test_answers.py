"""Scores of greedy answers, on a tiny model whose answers are known."""

import dataclasses

import pytest
import torch

from builders import make_model, make_prompts
from diekae.data.prompt import Prompt
from diekae.evaluation.answers import score_answers
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
