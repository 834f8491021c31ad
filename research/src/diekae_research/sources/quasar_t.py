"""QUASAR-T: trivia questions and what a web search found for them (Dhingra et al., 2017).

``questions/{train,dev,test}_questions.json.gz`` and ``contexts/short/{train,dev,test}_contexts.json.gz``, a line each:

    {"uid": "s3q41931", "question": "Which city is, in terms of population, the second largest in Mexico?",
     "answer": "Guadalajara", ...}

    {"uid": "s3q41931", "contexts": [[0.9, "However, the largest city in Scotland in terms of [...]"], ...]}

Licence: BSD-2-Clause. Upstream: curtis.ml.cmu.edu/datasets/quasar, github.com/bdhingra/quasar.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diekae.data.example import DataError, Example
from diekae_research.data.card import Card, Option, Upstream
from diekae_research.data.request import Request

_URL = "http://curtis.ml.cmu.edu/datasets/quasar/quasar-t"
_PARTS = {"train": "train", "validation": "dev", "test": "test"}
_PATHS = ("questions/{}_questions.json", "contexts/short/{}_contexts.json")
CARD = Card(
    title="QUASAR-T (Dhingra et al., 2017)",
    licence="BSD-2-Clause",
    homepage="https://github.com/bdhingra/quasar",
    origin="curtis.ml.cmu.edu/datasets/quasar/quasar-t",
    upstream=tuple(
        Upstream(f"{path.format(part)}.gz", f"{_URL}/{path.format(part)}.gz")
        for part in _PARTS.values()
        for path in _PATHS
    ),
    paper=(37012, 3000, 3000),
    options={"contexts": Option(2, "how many of the best search results are the knowledge")},
)


def load(request: Request) -> Iterator[Example]:
    """Yield the first results of the search as knowledge, question and answer; two files are joined by ``uid``.

    Only the questions are held in memory. As in the paper, the results need not contain the answer.
    """
    number = request.options["contexts"]
    if number < 1:
        raise DataError(f"option contexts of source 'quasar_t' is {number}; expected at least 1")
    questions_file, contexts_file = (path.format(_PARTS[request.split]) for path in _PATHS)
    questions = dict(
        request.convert(
            request.lines(questions_file), lambda row: [(str(row["uid"]), (row["question"], row["answer"]))]
        )
    )

    def join(row: dict[str, Any]) -> Iterator[Example]:
        question, answer = questions.pop(str(row["uid"]))
        texts = tuple(text for _, text in row["contexts"] if text.strip())
        yield Example(texts[:number], question, answer)

    yield from request.convert(request.lines(contexts_file), join)
    for uid in questions:
        request.note(f"{questions_file}: uid {uid}", DataError("the question has no contexts"))
