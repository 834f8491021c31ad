"""Right answers to single questions: D(x), D(K, x) and ours on documents, sentences, Natural Questions and facts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from diekae.data.example import Example
from diekae.data.mixture import DataSpec, load_mixture
from diekae.data.prompt import Prompt
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.run.score import Way
from diekae_research.documents.questions import PLAIN_KINDS, read_rows
from diekae_research.evaluation.scoring import compare_answers, first_lines, target_texts
from diekae_research.methods.ours import as_methods

QuestionSet = Literal["documents", "sentences", "natural_questions", "facts"]
ANSWER_TOKENS = 32
"""Longest answer."""
LONGEST = 400
"""Tokens of knowledge; examples with more are left out."""
BATCH = 8


def load_prompts(
    model: DiekaeModel, name: QuestionSet, *, data: Path | None, limit: int, seed: int = 0, format: str = "qa"
) -> list[Prompt]:
    """Lay out the questions of one set.

    Args:
        model: Its tokenizer is used.
        name: One of :data:`QuestionSet`.
        data: Folder of the raw data sets; only ``natural_questions`` needs it.
        limit: Questions at most.
        seed: Decides which questions of ``natural_questions`` and ``facts``.
        format: Text around a question.

    Raises:
        DataError: The data set is not in the folder.
    """
    prompter = model.need_prompter()
    if name in ("natural_questions", "facts"):
        folder = str(data / name) if data and name != "facts" else None
        spec = DataSpec(source=name, split="test", folder=folder, limit=limit, format=format, longest=LONGEST)
        return load_mixture([spec], seed, prompter)
    examples = [
        Example((row["text"],), question["question"], question.get("answer") or question["answers"][0])
        for row in read_rows(name)
        for question in row.get("questions", [row])
        if question["kind"] in PLAIN_KINDS
    ]
    step = max(1, len(examples) // limit)
    return [prompter.prompt(example, format) for example in examples[::step][:limit]]


@torch.no_grad()
def measure_answers(
    model: DiekaeModel, prompts: Sequence[Prompt], ways: Sequence[Way], progress: Progress = silent
) -> dict[str, Any]:
    """Answer greedily in every way, and compare each answer's first line with the target.

    Args:
        model: Decoder and bank.
        prompts: The questions.
        ways: Some of ``bare``, ``prompted`` and ``ours``.
        progress: Called as the work goes on.

    Returns:
        ``n``; for each way the means of ``right``, ``exact`` and ``f1``; where ``prompted`` and ``ours`` are measured,
        ``share`` (right answers of ours over those of D(K, x)), ``kept`` (the share of D(K, x)'s right answers that
        ours gives too) and ``same_words`` (the share of equal answers); and all ``answers``.
    """
    wanted = target_texts(model.need_prompter().tokenizer, prompts)
    with frozen(model.decoder):
        lines = {
            method.name: first_lines(method, prompts, ANSWER_TOKENS, BATCH, progress)
            for method in as_methods(model)
            if method.name in ways
        }
    scores = {name: compare_answers(texts, wanted) for name, texts in lines.items()}
    figures: dict[str, Any] = {"n": len(prompts)}
    figures["ways"] = {
        name: {measure: float(row[measure].mean()) for measure in ("right", "exact", "f1")}
        for name, row in scores.items()
    }
    if {"prompted", "ours"} <= set(scores) and scores["prompted"]["right"].any():
        prompted, ours = scores["prompted"]["right"], scores["ours"]["right"]
        same = [a == b for a, b in zip(lines["prompted"], lines["ours"], strict=True)]
        figures["share"] = float(ours.sum() / prompted.sum())
        figures["kept"] = float((ours * prompted).sum() / prompted.sum())
        figures["same_words"] = sum(same) / len(same)
    rows = zip(wanted, *lines.values(), strict=True)
    return {**figures, "answers": [dict(zip(("wanted", *lines), row, strict=True)) for row in rows]}
