"""Decoders of many kinds, the bank that reads them exactly, and D(K, x) asked with nothing of ours in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from builders import ABSOLUTE, ARCHITECTURES, WORDS, make_decoder, make_tokenizer
from diekae import DiekaeConfig, DiekaeModel
from diekae.data.batch import pad_left

CASTLE = " ".join((WORDS * 2)[3:43])
SHIP = " ".join(WORDS[60:71])
RIVER = "a river has seven dogs and two old cats in the snow by night"
QUESTIONS = [
    "who built the castle in the north of the old town",
    "where are the dogs from",
    "what opened in the light of day and last night",
]
WINDOW = 256
OFF, CHANGE = 1e-4, 0.1
"""Most that a logit may be off, and the least that K must change one."""

GROUPED = {"intermediate_size": 48, "num_key_value_heads": 2}
_EXPERTS = {**GROUPED, "num_experts_per_tok": 2}
_PARTIAL = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
_YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "rope_theta": 1e4,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 128,
}
_ALTERNATING = ["sliding_attention", "full_attention"] * 2

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in ARCHITECTURES if kind not in ABSOLUTE},
    "llama, one key head": ("llama", {"num_key_value_heads": 1}),
    "llama, a key head each": ("llama", {"num_key_value_heads": 4}),
    "llama, linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "llama, llama3 rope": ("llama", {"rope_parameters": _LLAMA3}),
    "llama, yarn": ("llama", {"rope_parameters": _YARN}),
    "phi3, longrope": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 128}),
    "phi": ("phi", {**GROUPED, "num_key_value_heads": 4}),
    "phi, half rotary": ("phi", {**GROUPED, "num_key_value_heads": 4, "rope_parameters": _PARTIAL}),
    "gpt_neox, half rotary": ("gpt_neox", {"rope_parameters": _PARTIAL}),
    "gemma3, alternating": ("gemma3_text", {"layer_types": _ALTERNATING}),
    "mistral, window shorter than K": ("mistral", {"sliding_window": 20}),
    "mistral, window shorter than K and x": ("mistral", {"sliding_window": 45}),
    "starcoder2, window": ("starcoder2", {**GROUPED, "sliding_window": 20}),
    "gpt_oss": ("gpt_oss", {**_EXPERTS, "head_dim": 8, "num_local_experts": 4, "sliding_window": 20}),
    "qwen3_moe": ("qwen3_moe", {**_EXPERTS, "head_dim": 8, "moe_intermediate_size": 24, "num_experts": 4}),
    "granite": ("granite", GROUPED),
    "olmo2": ("olmo2", GROUPED),
    "olmo3, window": ("olmo3", {**GROUPED, "sliding_window": 20}),
    "cohere": ("cohere", {**GROUPED, "logit_scale": 1.0}),
    "cohere2, layers without positions": ("cohere2", {**GROUPED, "logit_scale": 1.0, "sliding_window": 20}),
    "smollm3, layers without positions": ("smollm3", {**GROUPED, "no_rope_layers": [1, 1, 1, 0]}),
    "stablelm": ("stablelm", GROUPED),
    "starcoder2": ("starcoder2", {**GROUPED, "sliding_window": None}),
    "glm": ("glm", {**GROUPED, "head_dim": 8}),
}
"""Every kind that can be read: its Transformers model type, and what is added to its sizes."""
ONLY_EAGER = ("gemma2", "gpt_oss")
"""Kinds that Transformers runs with its own products alone: soft caps, sinks."""


def make_variant(name: str, attention: str = "sdpa", **sizes: Any) -> PreTrainedModel:
    """A tiny decoder of some kind, whose window holds K and x."""
    kind, own = VARIANTS.get(name, (name, {}))
    implementation = "eager" if kind in ONLY_EAGER else attention
    given = {"max_position_embeddings": WINDOW, "attn_implementation": implementation, **own, **sizes}
    return make_decoder(kind, **given)


_models: dict[tuple[str, str], DiekaeModel] = {}


def exact_model(name: str, attention: str = "sdpa") -> DiekaeModel:
    """One model of a kind for all tests; none may change it."""
    if (name, attention) not in _models:
        _models[name, attention] = make_exact(make_variant(name, attention))
    return _models[name, attention]


def make_exact(decoder: PreTrainedModel | None = None, **options: Any) -> DiekaeModel:
    """The bank that reads K exactly; the text of K stands as it is, without a template."""
    config = DiekaeConfig.preset("exact", **{"template": "{knowledge}", "format": "plain", **options})
    return DiekaeModel(decoder or make_variant("llama"), config, make_tokenizer()).eval()


def in_prompt(model: DiekaeModel, question: str, knowledge: str | None) -> tuple[Tensor, int]:
    """Tokens of anchor, K and x, [1, columns], and how many of them are K's."""
    x, a = model.tokenize(question)["input_ids"], len(model.anchor)
    known = () if knowledge is None else model.need_prompter().knowledge(knowledge)
    return torch.cat([x[:, :a], torch.tensor([known], dtype=torch.long), x[:, a:]], dim=1), len(known)


@torch.no_grad()
def prompted(model: DiekaeModel, question: str, knowledge: str | None) -> Tensor:
    """Logits of D(K, x) at the columns of x behind its anchor, [columns, vocabulary]."""
    ids, known = in_prompt(model, question, knowledge)
    return model.decoder(input_ids=ids).logits[0, len(model.anchor) + known :]


@torch.no_grad()
def ours(model: DiekaeModel, question: str, knowledge: Any, **options: Any) -> Tensor:
    """Logits with K injected at the same columns."""
    return model(**model.tokenize(question), knowledge=knowledge, **options).logits[0, len(model.anchor) :]


def off(got: Tensor, want: Tensor) -> float:
    """The largest difference."""
    assert got.shape == want.shape
    return float((got - want).detach().abs().max())


def right_padded(model: DiekaeModel, questions: Sequence[str]) -> dict[str, Tensor]:
    """As ``tokenize``, padded on the right."""
    rows = [model.tokenize(question)["input_ids"][0].tolist() for question in questions]
    ids, mask = (tensor.flip(1) for tensor in pad_left([row[::-1] for row in rows], 0, model.device))
    return {"input_ids": ids, "attention_mask": mask}
