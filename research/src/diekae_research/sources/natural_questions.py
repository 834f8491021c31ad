"""Natural Questions with the passage that answers them (Kwiatkowski et al., 2019).

The preprocessed version that the paper uses, ``train.json`` and ``dev.json`` (there is no test split):

    {"contexts": "The Shannara Chronicles Genre Fantasy [...]", "questions": [{"input_text": "what is the shannara
     chronicles season 2 based on"}], "answers": [{"span_text": "The Sword of Shannara Trilogy"}], ...}

Where those are missing, two subsets, of which one may be missing too. ``natural-questions-short-1000.csv`` has
the columns context, question, golden_answer (text left out at [...]):

    "The Truman Doctrine was an American foreign policy created to counter Soviet geopolitical expansion during the Cold
    War . [...]",what did the u.s. policy called the truman doctrine promise to do,created to counter Soviet
    geopolitical expansion during the Cold War

``nq-open-oracle-2000.jsonl`` has the gold passage as the only one in ``ctxs``:

    {"question": "dogs name in the grinch who stole christmas", "answers": ["Max"], "ctxs": [{"title": "How the Grinch
     Stole Christmas!", "text": "[...] His only companion is his unloved, but loyal dog, Max. [...]", ...}], ...}

Licence: Apache-2.0 (the oracle version MIT). Upstream: huggingface.co/datasets/cjlovering/natural-questions-short.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diekae.data.example import Example
from diekae.data.splits import split_of
from diekae_research.data.card import Card, Upstream
from diekae_research.data.request import MissingData, Record, Request

SHORT_FILE = "natural-questions-short-1000.csv"
ORACLE_FILE = "nq-open-oracle-2000.jsonl"
_FILES = {"train": "train.json", "validation": "dev.json"}
_URL = "https://huggingface.co/datasets/cjlovering/natural-questions-short/resolve/main"
CARD = Card(
    title="Natural Questions, short (Kwiatkowski et al., 2019)",
    licence="Apache-2.0; the oracle version MIT",
    homepage="https://huggingface.co/datasets/cjlovering/natural-questions-short",
    origin="cjlovering/natural-questions-short, google-research-datasets/natural-questions or its oracle version",
    upstream=tuple(Upstream(name, f"{_URL}/{name}") for name in _FILES.values()),
    paper=(13933, 871, 0),
    note="questions without an answer are left out; the two subset files are divided by a hash of the question",
)


def load(request: Request) -> Iterator[Example]:
    """Return passage, question and first answer.

    The two subsets have no parts of their own: a hash of the question puts 80 / 10 / 10 % into train, validation and
    test, so that a question stays in its part whichever files exist. A question that occurs twice, or whose passage
    does not hold the answer, is left out.
    """
    if any(request.there(name) for name in _FILES.values()):
        name = _FILES.get(request.split)
        return request.convert(request.entries(name) if name else (), _preprocessed)
    return _subsets(request)


def as_question(text: str) -> str:
    """Return a search query with a capital and a question mark."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith("?") else "?")


def _preprocessed(entry: dict[str, Any]) -> Iterator[Example]:
    answer = entry["answers"][0]["span_text"].strip()
    if answer:
        yield Example((entry["contexts"].strip(),), as_question(entry["questions"][0]["input_text"]), answer)


def _subsets(request: Request) -> Iterator[Example]:
    if not request.there(SHORT_FILE) and not request.there(ORACLE_FILE):
        raise MissingData(
            f"{request.folder}: holds none of {', '.join(_FILES.values())}, {SHORT_FILE} and {ORACLE_FILE}; "
            f"get some from {request.card.origin}"
        )
    seen: set[str] = set()
    for name, records, convert in ((SHORT_FILE, _short_rows, _short), (ORACLE_FILE, Request.lines, _oracle)):
        if not request.there(name):
            continue
        for passage, question, answer in request.convert(records(request, name), convert):
            question = as_question(question)
            # Four short records have an empty answer, which any passage "contains".
            if not answer or answer.lower() not in passage.lower() or question.lower() in seen:
                continue
            seen.add(question.lower())
            if split_of(question.lower()) == request.split:
                yield Example((passage,), question, answer)


def _short_rows(request: Request, name: str) -> Iterator[Record]:
    return request.rows(name, ("context", "question", "golden_answer"))


def _short(row: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(row["context"].strip(), row["question"].strip(), row["golden_answer"].strip())]


def _oracle(row: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(row["ctxs"][0]["text"].strip(), row["question"].strip(), row["answers"][0].strip())]
