"""Greedy answers, against `generate` called by hand."""

import pytest
import torch

from builders import make_model, make_prompts
from diekae.data.prompt import Prompt
from diekae.model import DiekaeModel
from diekae.model.generation import end_tokens, until_end
from diekae.run.answer import answer
from diekae.run.score import Way

PROMPTS = make_prompts(3)


def by_hand(model: DiekaeModel, prompt: Prompt, way: Way) -> str:
    """Answer one prompt with `generate`, without padding."""
    knowledge = model.prepare_prompts([prompt])[0] if way == "ours" else None
    second_anchor = prompt.anchor if model.config.anchor == "own" else ()
    before = (*prompt.knowledge, *second_anchor) if way == "prompted" else ()
    ids = torch.tensor([[*prompt.anchor, *before, *prompt.input]])
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    generated = model.generate(ids, attention_mask=torch.ones_like(ids), knowledge=knowledge, **options)
    tokenizer = model.need_prompter().tokenizer
    return str(tokenizer.decode(generated[0, ids.shape[1] :], skip_special_tokens=True)).strip()


@pytest.mark.parametrize("anchor", ["shared", "own"])
@pytest.mark.parametrize("way", ["bare", "prompted", "ours"])
def test_answers_are_those_of_generate(way: Way, anchor: str) -> None:
    model = make_model("attention", anchor=anchor)
    expected = [by_hand(model, prompt, way) for prompt in PROMPTS]
    assert answer(model, PROMPTS, way, 8) == expected
    assert all(expected), "an empty answer shows nothing"


def test_the_three_ways_give_different_answers() -> None:
    model = make_model("attention")
    assert len({tuple(answer(model, PROMPTS, way, 8)) for way in ("bare", "prompted", "ours")}) == 3


def test_the_decoders_generation_settings_do_not_matter() -> None:
    model = make_model("attention")
    expected = answer(model, PROMPTS, "ours", 8)
    model.decoder.generation_config.update(do_sample=True, temperature=9.0, top_k=3, num_beams=2)
    assert answer(model, PROMPTS, "ours", 8) == expected


def test_rows_are_cut_after_the_first_end_token() -> None:
    decoder = make_model().decoder
    rows = torch.tensor([[5, 2, 7, 2], [5, 6, 7, 8], [2, 5, 0, 0]])
    decoder.generation_config.eos_token_id = 2
    assert until_end(rows, decoder) == [[5, 2], [5, 6, 7, 8], [2]]
    decoder.generation_config.eos_token_id = [7, 2]
    assert until_end(rows, decoder) == [[5, 2], [5, 6, 7], [2]] and end_tokens(decoder) == {2, 7}
    decoder.generation_config.eos_token_id = None
    assert until_end(rows, decoder) == rows.tolist() and end_tokens(decoder) == set()


def test_an_answer_ends_at_the_end_token() -> None:
    """The second generated token is made the end token, and the padding an ordinary word."""
    model = make_model()
    ids = torch.tensor([[*PROMPTS[0].anchor, *PROMPTS[0].input]])
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0}
    first, second, *_ = model.generate(ids, max_new_tokens=4, **options)[0, ids.shape[1] :].tolist()
    assert first != second
    model.decoder.generation_config.eos_token_id = second
    tokenizer = model.need_prompter().tokenizer
    tokenizer.pad_token = "tower"
    expected = str(tokenizer.decode([first, second], skip_special_tokens=True)).strip()
    assert answer(model, PROMPTS[:1], "bare", 8) == [expected]


@pytest.mark.parametrize(("prompts", "tokens"), [([], 8), (PROMPTS, 0)])
def test_no_prompt_or_no_token_is_refused(prompts: list[Prompt], tokens: int) -> None:
    with pytest.raises(ValueError, match=f"{len(prompts)} prompts and max_new_tokens={tokens}"):
        answer(make_model(), prompts, "bare", tokens)
