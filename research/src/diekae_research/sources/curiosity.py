"""Curiosity: an assistant that works facts about a place into its answers (Rodriguez et al., 2020).

``curiosity_dialogs.{train,val,test}.json`` and the facts it used, ``fact_db_links.json``:

    {"dialogs": [{"dialog_id": 748, "focus_entity": "Saint Kitts and Nevis", "messages": [
        {"sender": "user", "message": "I want to learn about Saint Kitts and Nevisand their culture", "facts": [], ...},
        {"sender": "assistant", "message": "Saint Kitts is well known for musical celebrations such as Carnival.",
         "facts": [{"fid": 44494, "used": false, ...}, {"fid": 44465, "used": true, ...}], ...}]}]}

    {"linked_facts": {"44465": {"text": "[...]", ...}, ...}}

Licence: CC BY-NC 4.0. Upstream: github.com/facebookresearch/curiosity (checksums from its Git LFS pointers).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from diekae.data.example import DataError, Example
from diekae_research.data.card import Card, Upstream
from diekae_research.data.marks import dialogue, one_line
from diekae_research.data.request import Request

_URL = "https://github.com/facebookresearch/curiosity/raw/main/dialog_data"
_FACTS = "fact_db_links.json"
_FILES = {split: f"curiosity_dialogs.{name}.json" for split, name in (("train", "train"), ("validation", "val"))}
_FILES["test"] = "curiosity_dialogs.test.json"
_SHA256 = {
    _FACTS: "95e68092c420c2b71321a6dfc18bad0027db7833972522f3a260b835fa819ad7",
    _FILES["train"]: "afe5bb0db8406663a316cd02cd25f33214725aaf1e25137cac3a13c6b1b4e70b",
    _FILES["validation"]: "4371152e4c783db3fd7366cee6aac0537fa786180a19d48f1ec052181678214f",
    _FILES["test"]: "61dda16362474488c110a4a7d40da1fd7c6fd3c62dddbedea5e3e1fa590e416d",
}
CARD = Card(
    title="Curiosity (Rodriguez et al., 2020)",
    licence="CC BY-NC 4.0",
    homepage="https://github.com/facebookresearch/curiosity",
    origin="the repository facebookresearch/curiosity (folder dialog_data)",
    upstream=tuple(Upstream(name, f"{_URL}/{name}", sha256) for name, sha256 in _SHA256.items()),
    paper=(65624, 8588, 8584),
    note="turns that used no fact are kept apart: their knowledge would be made from the answer",
)
# Footnotes of the wiki texts: closed ones, then open ones as far as their braces or brackets reach.
_FOOTNOTE = re.compile(r"< ref\b[^<>]*?/ >|< ref\b.*?< / ref >", re.DOTALL)
_OPEN_FOOTNOTE = re.compile(r"< ref\b[^<>]*>(?:\s*(?:\{\{.*?(?:\}\}|$)|\[.*?(?:\]|$)))?|< / ref >", re.DOTALL)


def load(request: Request) -> Iterator[Example]:
    """Return what the assistant says: the facts it used as knowledge, the talk so far as input.

    A turn that used no fact leaks: the paper paraphrases the answer as its knowledge; here the answer is used.
    """
    content = request.json(_FACTS)
    if not isinstance(content, dict) or not isinstance(content.get("linked_facts"), dict):
        raise DataError(f"{request.folder}/{_FACTS}: expected a JSON object with an object 'linked_facts'")
    texts: dict[str, Any] = content["linked_facts"]

    def turns(dialog: dict[str, Any]) -> Iterator[Example]:
        talk: list[tuple[str, str]] = []
        for message in dialog["messages"]:
            text = without_footnotes(message["message"])
            if text and message["sender"] == "assistant":
                used = [str(fact["fid"]) for fact in message["facts"] if fact["used"]]
                facts = [texts[fact]["text"] for fact in used if fact in texts]
                knowledge = tuple(filter(None, map(without_footnotes, facts)))
                yield Example(knowledge or (text,), dialogue(talk, "assistant"), text, leaks=not knowledge)
            if text:
                talk.append((message["sender"], text))

    return request.convert(request.entries(_FILES[request.split], "dialogs"), turns)


def without_footnotes(text: str) -> str:
    """Return the text without the wiki's footnotes, on one line."""
    return one_line(_OPEN_FOOTNOTE.sub(" ", _FOOTNOTE.sub(" ", text)))
