"""The documents and their questions, and when an answer is right."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diekae.evaluation import answers
from diekae.store import FoundPassage
from diekae.store.catalogue import document_id

PLAIN_KINDS = ("name", "number", "phrase")
"""Kinds of questions that ask for a few words of the document."""


def read_rows(name: str) -> list[dict[str, Any]]:
    """Read one of this folder's files: ``documents``, ``languages`` or ``sentences``."""
    rows: list[dict[str, Any]] = json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))
    return rows


def questions_of(split: str, limit: int | None = None) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return each question of a split with its document.

    Each question has a key ``near``: ``near`` for a document's first unanswerable question, ``far`` for its second, and
    an empty text for answerable ones.

    Args:
        split: ``development`` or ``test``.
        limit: At most this many, drawn with a fixed seed.
    """
    pairs = []
    for document in read_rows("documents"):
        if document["split"] != split:
            continue
        distances = iter(("near", "far"))
        for question in document["questions"]:
            near = next(distances) if question["kind"] == "unanswerable" else ""
            pairs.append((document, {**question, "near": near}))
    if limit is None or limit >= len(pairs):
        return pairs
    chosen = random.Random(0).sample(range(len(pairs)), limit)
    return [pairs[number] for number in sorted(chosen)]


def passages_answer(question: dict[str, Any], texts: Sequence[str]) -> bool:
    """Return whether passages of the question's own document have the answer.

    A yes or no, and two facts together, do not stand in them word for word; so these are taken to.
    """
    if question["kind"] in ("yes_no", "two_facts"):
        return True
    return bool(question["answers"]) and bool(answers.right("\n".join(texts), question["answers"]))


def found_answer(document: dict[str, Any], question: dict[str, Any], found: Sequence[FoundPassage]) -> bool:
    """Return whether the passages that a search found are of the question's document, and have its answer."""
    own = bool(found) and found[0].id == document_id(document["text"])
    return own and not question["near"] and passages_answer(question, [passage.text for passage in found])


def is_right(answer: str, question: dict[str, Any]) -> bool:
    """Return whether an answer holds an accepted form; ``yes`` or ``no`` must be its first word."""
    if question["kind"] == "yes_no":
        return bool(answers.normalize(answer).split()[:1] == question["answers"])
    return bool(question["answers"]) and bool(answers.right(answer, question["answers"]))
