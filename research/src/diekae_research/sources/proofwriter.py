"""ProofWriter: does a statement follow from facts and rules, in an open world? (Tafjord et al., 2021).

``OWA/depth-2/meta-{train,dev,test}.jsonl``, a theory a line:

    {"id": "RelNeg-OWA-D2-1234", "theory": "The bear eats the dog. The bear eats the squirrel. [...]", "questions":
     {"Q1": {"question": "The bear sees the rabbit.", "answer": true, ...}, "Q2": {..., "answer": "Unknown", ...}}, ...}

Where that is missing, ``{train,dev,test}.json``, a question an entry (depth 5):

    [{"id": "ProofWriter_AttNoneg-OWA-D5-1041_Q1", "context": "Bob is cold. Bob is quiet. [...]",
      "question": "Based on the above information, is the following statement true, false, or unknown? Charlie is
      kind.",
      "options": ["A) True", "B) False", "C) Unknown"], "answer": "A"}]

Licence: CC BY 4.0 (the question-an-entry version MIT). Upstream: allenai.org/data/proofwriter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diekae.data.example import Example
from diekae_research.data.card import Card, Option, Upstream
from diekae_research.data.request import Request

_PARTS = {"train": "train", "validation": "dev", "test": "test"}
_URL = "https://aristo-data-public.s3.amazonaws.com/proofwriter"
_TOP = "proofwriter-dataset-V2020.12.3"
_LEAD = "is the following statement true, false, or unknown?"
_LETTERS = {"A": "True", "B": "False", "C": "Unknown"}
CARD = Card(
    title="ProofWriter, open world (Tafjord et al., 2021)",
    licence="CC BY 4.0; the question-an-entry version MIT",
    homepage="https://allenai.org/data/proofwriter",
    origin="allenai.org/data/proofwriter",
    upstream=(Upstream(f"{_TOP}.zip", f"{_URL}/{_TOP}.zip", inner=_TOP),),
    paper=(70076, 10094, 19840),
    labels=("True", "False", "Unknown"),
    options={"depth": Option(2, "the longest chain of reasoning: 0, 1, 2, 3 or 5 (upstream layout only)")},
    note="a folder of {train,dev,test}.json has depth 5 whatever is asked for",
)


def load(request: Request) -> Iterator[Example]:
    """Return the whole theory as knowledge, a statement as input, its class as target."""
    part = _PARTS[request.split]
    original = f"OWA/depth-{request.options['depth']}/meta-{part}.jsonl"
    if not request.there(original) and request.there(f"{part}.json"):
        return request.convert(request.entries(f"{part}.json"), _question)
    return request.convert(request.lines(original), _theory)


def _theory(row: dict[str, Any]) -> Iterator[Example]:
    for question in row["questions"].values():
        label = str(question["answer"])
        if label not in CARD.labels:
            raise ValueError(f"answer {label!r} is none of {', '.join(CARD.labels)}")
        yield Example((row["theory"],), question["question"], label, label)


def _question(entry: dict[str, Any]) -> Iterator[Example]:
    label = _LETTERS[entry["answer"]]
    statement = entry["question"].rpartition(_LEAD)[2].strip()
    yield Example((entry["context"],), statement, label, label)
