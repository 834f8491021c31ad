"""FOLIO: does a conclusion follow from premises in natural language? (Han et al., 2022).

``folio-train.jsonl`` and ``folio-validation.jsonl`` (v0.0; there is no public test split):

    {"story_id": 406, "example_id": 1131, "premises": ["All people who regularly drink coffee are dependent on
     caffeine.", ...], "conclusion": "Rina is a person who jokes about being addicted to caffeine or unaware that
     caffeine is a drug.", "label": "True", ...}

Licence: CC BY-SA 4.0. Upstream: github.com/Yale-LILY/FOLIO.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diekae.data.example import Example
from diekae_research.data.card import Card, Upstream
from diekae_research.data.marks import one_line
from diekae_research.data.request import Request

_URL = "https://github.com/Yale-LILY/FOLIO/raw/main/data/v0.0"
_FILES = {"train": "folio-train.jsonl", "validation": "folio-validation.jsonl"}
_SHA256 = {
    "train": "008d34b750d31fa7f014e953228adf4db81ec34bbda9e7f67c96c60438d1e6b2",
    "validation": "6922c988ef10987bd6545568ee8e63e897af80994591fa20539767da58f8e3d1",
}
# The two files name the third class differently.
_LABELS = {"True": "True", "False": "False", "Unknown": "Unknown", "Uncertain": "Unknown"}
CARD = Card(
    title="FOLIO v0.0 (Han et al., 2022)",
    licence="CC BY-SA 4.0",
    homepage="https://github.com/Yale-LILY/FOLIO",
    origin="the repository Yale-LILY/FOLIO (folder data/v0.0)",
    upstream=tuple(Upstream(name, f"{_URL}/{name}", _SHA256[split]) for split, name in _FILES.items()),
    paper=(1004, 204, 0),
    labels=("True", "False", "Unknown"),
)


def load(request: Request) -> Iterator[Example]:
    """Return the premises as one document, the conclusion as input, its class as target; there is no test part."""
    name = _FILES.get(request.split)
    return request.convert(request.lines(name) if name else (), _conclusion)


def _conclusion(row: dict[str, Any]) -> Iterator[Example]:
    label = _LABELS[row["label"]]
    yield Example((one_line(" ".join(row["premises"])),), one_line(row["conclusion"]), label, label)
