"""Tiny tasks for the methods, and the decoder asked row by row."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from builders import SMALL, make_decoder, make_prompts, make_tokenizer
from diekae import DiekaeConfig
from diekae.data.prompt import Prompt
from diekae.training.config import TrainingConfig
from diekae_research.methods import Fitted, Task, fit

RATES = {"lora": 1e-2, "sft": 1e-3, "ours_finetuned": 2e-3}


def make_task(folder: Path, decoder: PreTrainedModel | None = None, steps: int = 4, **options: Any) -> Task:
    prompts = make_prompts(4)
    return Task(
        decoder=decoder or make_decoder(),
        tokenizer=make_tokenizer(),
        train=prompts,
        validation=prompts,
        folder=folder,
        training=TrainingConfig(max_steps=steps, batch_size=2, evaluations=2, calibration=4),
        learning_rates=RATES,
        diekae=DiekaeConfig(layers="all", encoder_options=SMALL["reader"], anchor=options.pop("anchor", "shared")),
        progress=lambda _what, _done, _all: None,
        **options,
    )


def make_fitted(name: str, folder: Path, **options: Any) -> Fitted:
    return fit(name, make_task(folder, **options))


def loss(fitted: Fitted, prompts: list[Prompt]) -> float:
    scored = fitted.target_logits(prompts)
    return float(torch.nn.functional.cross_entropy(scored.logits, scored.labels))


def rows_logits(decoder: PreTrainedModel, prompts: list[Prompt], how: str, anchor: str) -> Tensor:
    """The logits before each target token, one row after another, without cache, padding or choice of columns."""
    found = []
    for p in prompts:
        between = p.anchor if anchor == "own" else ()
        before = p.anchor + p.input if how == "bare" else p.anchor + p.knowledge + between + p.input
        with torch.no_grad():
            logits = decoder(input_ids=torch.tensor([before + p.target])).logits[0]
        found.append(logits[len(before) - 1 : -1])
    return torch.cat(found)
