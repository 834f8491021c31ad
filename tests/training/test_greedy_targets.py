"""Targets that the decoder generates itself."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from builders import make_decoder, make_model, make_prompts, make_tokenizer
from diekae.training.greedy_targets import use_greedy_targets


@pytest.mark.parametrize(("share", "anchor"), [(0.0, "shared"), (0.5, "shared"), (1.0, "shared"), (1.0, "own")])
def test_a_share_of_the_targets_is_replaced_by_greedy_answers(share: float, anchor: str, tmp_path: Path) -> None:
    tokenizer, decoder = make_tokenizer(), make_decoder(max_position_embeddings=256)
    model = make_model("attention", decoder=decoder, tokenizer=tokenizer, anchor=anchor)
    prompts = [dataclasses.replace(p, target=(1,)) for p in make_prompts(4)]
    replaced = use_greedy_targets(model, prompts, share, tmp_path / "answers.json")
    changed = [a.target != b.target for a, b in zip(replaced, prompts, strict=True)]
    assert sum(changed) == int(4 * share)
    for prompt, is_changed in zip(replaced, changed, strict=True):
        if is_changed:
            second_anchor = prompt.anchor if anchor == "own" else ()
            ids = torch.tensor([[*prompt.anchor, *prompt.knowledge, *second_anchor, *prompt.input]])
            answer = model.decoder.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=0
            )[0, ids.shape[1] :].tolist()
            assert prompt.target == tuple(answer[: len(prompt.target)])
    again = use_greedy_targets(model, prompts, share, tmp_path / "answers.json")
    assert [p.target for p in again] == [p.target for p in replaced]


def test_damaged_answers_are_generated_again(tmp_path: Path) -> None:
    model = make_model("attention", decoder=make_decoder(max_position_embeddings=256), tokenizer=make_tokenizer())
    prompts, path = make_prompts(2), tmp_path / "answers.json"
    replaced = use_greedy_targets(model, prompts, 1.0, path)
    whole = path.read_text()
    stored = json.loads(whole)
    changed = json.dumps({**stored, "answers": [[5], *stored["answers"][1:]]})
    assert changed != whole
    for text in (changed, whole[:40], "[]", "{}", "[" * 100_000):
        path.write_text(text)
        assert use_greedy_targets(model, prompts, 1.0, path) == replaced
        assert path.read_text() == whole
