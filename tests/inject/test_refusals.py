"""Decoders that cannot be read exactly are refused by name, before they give a wrong answer."""

from typing import Any

import pytest
import torch

from builders import hook_count, make_tokenizer
from diekae import DiekaeConfig, DiekaeModel
from diekae.inject.attention_interface import enable_wrapping
from readings import (
    CASTLE,
    GROUPED,
    LONGROPE,
    OFF,
    QUESTIONS,
    RIVER,
    make_exact,
    make_variant,
    off,
    ours,
)


@pytest.mark.parametrize(
    ("kind", "sizes", "why"),
    [
        ("gpt2", {}, "positions are learned"),
        ("opt", {}, "positions are learned"),
        ("falcon", {}, "does not go through Transformers' attention interface"),
        ("llama", {"rope_parameters": {**LONGROPE, "rope_type": "dynamic", "factor": 2.0}}, "scaled dynamically"),
        (
            "phimoe",
            {**GROUPED, "num_local_experts": 4, "sliding_window": 20},
            r"layers \[0, 1, 2, 3\] see a part of the text",
        ),
        (
            "llama4_text",
            {
                **GROUPED,
                "head_dim": 8,
                "num_local_experts": 2,
                "attention_chunk_size": 128,
                "no_rope_layers": [1, 1, 1, 0],
            },
            r"layers \[0, 1, 2\] see a part of the text",
        ),
        ("lfm2", {**GROUPED, "layer_types": ["conv", "full_attention"] * 2}, r"layers \[0, 2\] do not attend"),
        ("ministral3", {**GROUPED, "head_dim": 8}, "positions may not be relative"),
    ],
)
def test_decoders_that_cannot_be_read_exactly_are_refused_by_name(kind: str, sizes: dict[str, Any], why: str) -> None:
    decoder = make_variant(kind, **sizes)
    with pytest.raises(ValueError, match=rf"{type(decoder).__name__}: .*{why}.*encoder='reader'"):
        make_exact(decoder)
    assert hook_count(decoder) == 0
    reader = DiekaeModel(decoder, DiekaeConfig(encoder="reader"), make_tokenizer())
    assert ours(reader, QUESTIONS[0], RIVER).isfinite().all(), "the way out must be one"


def test_an_attention_implementation_without_masks_is_refused() -> None:
    decoder = make_variant("llama")
    decoder.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="'flex_attention' takes no mask.*'sdpa' or 'eager'.*encoder='reader'"):
        enable_wrapping(decoder)


def test_longrope_is_refused_beyond_its_original_length() -> None:
    model = make_exact(make_variant("phi3, longrope"))
    long = " ".join([CASTLE] * 3)
    room = 128 - len(model.need_prompter().knowledge(long))
    x = torch.tensor([[*model.anchor, *range(4, 4 + room)]])
    with torch.no_grad():
        full = torch.cat([x[:, :1], torch.tensor([model.need_prompter().knowledge(long)]), x[:, 1:]], dim=1)
        assert (
            off(model(x[:, :-1], knowledge=long).logits[:, 1:], model.decoder(full[:, :128]).logits[:, 129 - room :])
            <= OFF
        )
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="have 129 tokens .*beyond 128 .*longrope.*encoder='reader'"):
            call(x, knowledge=long, **({} if call is model else {"max_new_tokens": 1}))
    with pytest.raises(ValueError, match="have 129 tokens together"):
        model.generate(x[:, :-2], knowledge=long, max_new_tokens=5, min_new_tokens=5)


def test_a_decoder_that_lacks_weights_is_refused() -> None:
    model = make_exact()
    prepared = model.prepare(CASTLE)
    model.decoder.model.layers[2].to("meta")
    with pytest.raises(ValueError, match=r"9 weights of the decoder, 'model.layers.2.*' first, hold no values"):
        ours(model, QUESTIONS[0], prepared)


def test_a_decoder_on_another_device_than_its_bank_is_refused() -> None:
    model = make_exact()
    prepared = model.prepare(CASTLE)
    ids = model.tokenize(QUESTIONS[0])["input_ids"]
    model.decoder.to("meta")
    with pytest.raises(ValueError, match="the bank is on cpu, but the decoder is on meta; move both"):
        model(ids, knowledge=prepared)
