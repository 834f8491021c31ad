"""Cartridges: prefixes that are trained for one document."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from method_tasks import make_fitted, rows_logits
from transformers import Cache, PreTrainedModel

from builders import make_decoder, make_prompts
from diekae.inject.cache import forked
from diekae.inject.hooks import frozen
from diekae_research.methods.cartridge import CartridgeOptions


def cartridges(folder: Path, decoder: PreTrainedModel, rate: float = 1e-3, **options: int) -> Any:
    fitted: Any = make_fitted("cartridge", folder, decoder=decoder)
    fitted.options = CartridgeOptions(**{"sample_tokens": 8, **options})
    fitted.rate = rate
    return fitted


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gemma2"])
def test_a_cartridge_as_long_as_its_document_starts_as_the_prompt(kind: str, tmp_path: Path) -> None:
    decoder, prompts = make_decoder(kind), make_prompts(3)
    fitted = cartridges(tmp_path, decoder, steps=0)
    expected = rows_logits(decoder, prompts, "prompted", "shared")
    torch.testing.assert_close(fitted.target_logits(prompts).logits, expected, rtol=1e-4, atol=1e-4)
    assert fitted.generate(prompts, 3) == make_fitted("prompted", tmp_path, decoder=decoder).generate(prompts, 3)


def test_a_cartridge_learns_what_its_document_says(state: PreTrainedModel, tmp_path: Path) -> None:
    prompts = make_prompts(3)
    told: list[str] = []
    fitted = cartridges(tmp_path, state, rate=3e-2, steps=40, tokens=4, samples=16)
    fitted.progress = lambda what, _done, _all: told.append(what)
    with frozen(state):
        study = fitted._sample(prompts[2].anchor + prompts[2].knowledge)

        def distance(cache: Cache) -> float:
            logits = fitted._predict(study.ids, study.scored, cache).log_softmax(-1)
            return float(torch.nn.functional.kl_div(logits, study.teacher, log_target=True, reduction="batchmean"))

        with torch.no_grad():
            start = cartridges(tmp_path, state, steps=0, tokens=4)
            before, after = (distance(_repeated(f.prefix(prompts[2]), 16)) for f in (start, fitted))
    assert after < 0.8 * before
    assert told == ["training a cartridge"] * 40
    # 3 trainable tokens, keys and values of 2 heads of width 8, in 4 layers; trained once for each document.
    assert fitted.cost.parameters == 3 * 2 * 2 * 8 * 4
    fitted.target_logits(prompts)
    fitted.target_logits(prompts)
    assert len(told) == 3 * 40 and fitted.cost.seconds > 0


def _repeated(cache: Cache, rows: int) -> Cache:
    fork = forked(cache)
    fork.batch_repeat_interleave(rows)
    return fork


def test_a_cartridge_needs_knowledge_and_a_shared_anchor(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="knowledge=False and anchor='shared': a cartridge stands for K"):
        make_fitted("cartridge", tmp_path, knowledge=False)
    with pytest.raises(ValueError, match="anchor='own'"):
        make_fitted("cartridge", tmp_path, anchor="own")
    long = dataclasses.replace(make_prompts(1)[0], knowledge=(5,) * 60)
    with pytest.raises(ValueError, match="K takes 61 tokens of a window of 64"):
        cartridges(tmp_path, make_decoder()).prefix(long)
