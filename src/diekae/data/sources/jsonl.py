"""Your own data, one JSON object a line.

    {"knowledge": "The Ondrel Bridge opened in 1932.", "input": "When did the Ondrel Bridge open?", "target": "1932"}

The folder holds ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``; only the one that is asked for must be there.
"""

from __future__ import annotations

from collections.abc import Iterator

from diekae.data.card import Card
from diekae.data.example import Example, make_example
from diekae.data.request import Request
from diekae.data.sources import register

CARD = Card(
    title="Your own data (or built with `diekae data build`)",
    licence="yours",
    homepage="",
    origin="your own data (one JSON object with knowledge, input and target a line)",
)


@register("jsonl", CARD)
def load_jsonl(request: Request) -> Iterator[Example]:
    """The examples of one file, as they are."""
    return request.convert(request.lines(f"{request.split}.jsonl"), lambda row: [make_example(row)])
