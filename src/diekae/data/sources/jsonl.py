"""Your own data, one JSON object a line.

    {"knowledge": "The Ondrel Bridge opened in 1932.", "input": "When did the Ondrel Bridge open?", "target": "1932"}

The folder holds ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``; only the one that is asked for must be there.
"""

from __future__ import annotations

from diekae.data.example import Example, read_examples
from diekae.data.sources import Request, register

UPSTREAM = "your own data (one JSON object with knowledge, input and target a line)"


@register("jsonl")
def load_jsonl(request: Request) -> list[Example]:
    """The examples of one file, as they are."""
    return read_examples(request.file(f"{request.split}.jsonl", UPSTREAM))
