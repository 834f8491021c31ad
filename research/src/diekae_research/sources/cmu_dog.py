"""CMU Document Grounded Conversations: talk about a film that one or both have read about (Zhou et al., 2018).

A conversation, ``Conversations/{train,valid,test}/*.json``, and its document, ``WikiData/*.json``:

    {"wikiDocumentIdx": 18, "rating": 3, "status": 1, "whoSawDoc": ["user2"],
     "history": [{"docIdx": 0, "text": "hello", "uid": "user1", ...},
                 {"docIdx": 0, "text": "Rotten Tomatoes has rated it 96%", "uid": "user2", ...}, ...], ...}

    {"wikiDocumentIdx": 18, "0": {"movieName": "The Social Network", "rating": ["Rotten Tomatoes: 96%", ...], ...},
     "1": "In October 2003, [...]", "2": "[...]", "3": "[...]"}

Licence: none stated. Upstream: github.com/festvox/datasets-CMU_DoG.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diekae.data.example import Example
from diekae_research.data.card import Card, Option, Upstream
from diekae_research.data.marks import dialogue, one_line
from diekae_research.data.request import Request

_FOLDERS = {"train": "Conversations/train", "validation": "Conversations/valid", "test": "Conversations/test"}
_BEST = 3
_Sections = dict[str, tuple[str, ...]]
"""The documents of each section of a film."""
CARD = Card(
    title="CMU DoG (Zhou et al., 2018)",
    licence="none stated",
    homepage="https://github.com/festvox/datasets-CMU_DoG",
    origin="the repository festvox/datasets-CMU_DoG",
    upstream=(
        Upstream(
            "datasets-CMU_DoG-master.zip",
            "https://github.com/festvox/datasets-CMU_DoG/archive/master.zip",
            inner="datasets-CMU_DoG-master",
        ),
    ),
    paper=(15665, 1515, 2403),
    # Of the 71484 messages of the training part one is blank.
    options={
        "all_ratings": Option(False, "conversations of every quality, not only of rating 3", (71483, 4928, 12769))
    },
)


def load(request: Request) -> Iterator[Example]:
    """Return what each reader of the document says: the section in view as knowledge, the talk so far as input.

    Unfinished conversations (status 0 or false) are left out, and by default those of a rating below 3. The input
    begins anew where the section changes. Where both have read the document, each is the system in turn.
    """
    films = dict(request.convert(request.files("WikiData"), _film))

    def turns(record: dict[str, Any]) -> Iterator[Example]:
        if record["status"] == 0 or (record["rating"] != _BEST and not request.options["all_ratings"]):
            return
        film, talk, section = films[record["wikiDocumentIdx"]], list[tuple[str, str]](), 0
        for message in record["history"]:
            speaker, text = message["uid"], one_line(message["text"])
            if message["docIdx"] != section:
                talk, section = [], message["docIdx"]
            if text and speaker in record["whoSawDoc"]:
                yield Example(film[str(section)], dialogue(talk, speaker), text)
            if text:
                talk.append((speaker, text))

    return request.convert(request.files(_FOLDERS[request.split]), turns)


def _film(record: dict[str, Any]) -> Iterator[tuple[int, _Sections]]:
    facts = tuple(
        f"{name}: {' | '.join(value) if isinstance(value, list) else value}" for name, value in record["0"].items()
    )
    plot = {section: (record[section].strip(),) for section in record if section not in ("0", "wikiDocumentIdx")}
    yield record["wikiDocumentIdx"], {"0": facts, **plot}
