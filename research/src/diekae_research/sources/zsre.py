"""zsRE edits as knowledge: a question with a new answer (Levy et al., 2017; edits by Mitchell et al., 2022).

Every ``zsre_mend_*.json`` of the folder is read:

    [{"subject": "UniFirst", "src": "What is the product made by UniFirst?", "pred": "uniform", "rephrase": "What will
      be the product of UniFirst?", "alt": "unmanned aircraft", "answers": ["uniform"], "loc": "nq question: john
      goodman's character in the big lebowski", "loc_ans": "Walter Sobchak", "cond": "[...]"}]

Licence: Apache-2.0. Upstream: EasyEdit's editing data, folder zsre; the paper does not use this set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diekae.data.example import Example
from diekae.data.splits import split_of
from diekae_research.data.card import Card
from diekae_research.data.request import MissingData, Request

PATTERN = "zsre_mend_*.json"
CARD = Card(
    title="zsRE edits (Levy et al., 2017; Mitchell et al., 2022)",
    licence="Apache-2.0",
    homepage="https://github.com/zjunlp/EasyEdit",
    origin="EasyEdit's editing data (folder zsre)",
    note="divided by a hash of the subject, so that no subject of a test is trained on",
)


def load(request: Request) -> Iterator[Example]:
    """Yield the question with its new answer as knowledge, the question as input, the new answer as target.

    The subject's hash puts 80 / 10 / 10 % into train, validation and test; an edit that occurs twice counts once.
    """
    paths = sorted(request.path("").glob(PATTERN))
    if not paths:
        raise MissingData(f"source 'zsre': no {PATTERN} in {request.folder}; get some from {request.card.origin}")
    seen: set[tuple[str, str]] = set()
    for path in paths:
        for subject, question, answer in request.convert(request.entries(path.name), _edit):
            if (question, answer) in seen:
                continue
            seen.add((question, answer))
            if split_of(subject.lower()) == request.split:
                yield Example((f"{question} {answer}.",), question, answer)


def _edit(entry: dict[str, Any]) -> list[tuple[str, str, str]]:
    question, answer = entry["src"].strip(), entry["alt"].strip()
    if not question or not answer:
        raise ValueError("a blank question or answer")
    return [(entry["subject"].strip(), question, answer)]
