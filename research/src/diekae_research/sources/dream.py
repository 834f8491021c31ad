"""DREAM: questions about everyday dialogues (Sun et al., 2019).

    [["M: I am considering dropping my dancing class. I am not making any progress.",
      "W: If I were you, I stick with it. It's definitely worth time and effort."],
     [{"question": "What does the man suggest the woman do?",
       "choice": ["Consult her dancing teacher.", "Take a more interesting class.", "Continue her dancing class."],
       "answer": "Continue her dancing class."}],
     "5-510"]

Licence: non-commercial research. Upstream: github.com/nlpdata/dream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diekae.data.example import Example
from diekae_research.data.card import Card, Option, Upstream
from diekae_research.data.request import Request

_URL = "https://github.com/nlpdata/dream/raw/master/data"
_FILES = {"train": "train.json", "validation": "dev.json", "test": "test.json"}
CARD = Card(
    title="DREAM (Sun et al., 2019)",
    licence="non-commercial research",
    homepage="https://github.com/nlpdata/dream",
    origin="the repository nlpdata/dream (folder data)",
    upstream=(
        Upstream(
            "train.json", f"{_URL}/train.json", "90942ddea1b56231a0ad2097dc5f115ce1face1cfb86f029041e5bad38e68566"
        ),
        Upstream("dev.json", f"{_URL}/dev.json", "9d5af2e580d809c73872a7dd43fe93d0b07c6f6086b04a9a9a1917603009d961"),
        Upstream("test.json", f"{_URL}/test.json", "d96d7d0752f7eab1ea8f165a582430f35653c428d36633ab4d7f26fc14946c3a"),
    ),
    paper=(3829, 1273, 1276),
    options={"all_questions": Option(False, "every question of a dialogue, not only the first", (5951, 1993, 1990))},
)


def load(request: Request) -> Iterator[Example]:
    """Return the first question of each dialogue; sentences with a gap (``__``) are left out."""
    number = None if request.options["all_questions"] else 1

    def questions(entry: Any) -> Iterator[Example]:
        turns, questions_asked, _ = entry
        if not questions_asked:
            raise ValueError("a dialogue without a question")
        for question in questions_asked[:number]:
            if "__" not in question["question"]:
                yield Example(("\n".join(turns),), question["question"], question["answer"])

    return request.convert(request.entries(_FILES[request.split]), questions)
