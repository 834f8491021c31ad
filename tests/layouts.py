"""The full data sets where they are at hand, and small files in their publishers' layouts where they are not."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any, get_args

import pytest

from diekae.data import Split

SPLITS: tuple[Split, ...] = get_args(Split)


def _full_data() -> Path | None:
    named = os.environ.get("DIEKAE_DATA")
    if named:
        return Path(named)
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    return beside if beside.is_dir() else None


FULL_DATA = _full_data()
needs_full_data = pytest.mark.skipif(FULL_DATA is None, reason="set DIEKAE_DATA to the folder of the full data sets")


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, *rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def conversation(*turns: tuple[str, str, int], readers: tuple[str, ...] = ("user2",), **fields: Any) -> dict[str, Any]:
    """A CMU DoG conversation of (speaker, text, section) turns."""
    history = [{"uid": speaker, "text": text, "docIdx": section} for speaker, text, section in turns]
    return {"wikiDocumentIdx": 7, "rating": 3, "status": 1, "whoSawDoc": list(readers), "history": history, **fields}


def write_film(folder: Path) -> None:
    facts = {"movieName": "Up", "rating": ["98%", "88/100"]}
    write_json(
        folder / "WikiData" / "Up.json", {"wikiDocumentIdx": 7, "0": facts, "1": "A house.", "2": "F.", "3": "E."}
    )


def write_curiosity(folder: Path, *messages: tuple[str, str, list[tuple[int, bool]]]) -> None:
    """Messages of (sender, text, facts as (number, used)); facts 1 and 2 have a text, others are unknown."""
    rows = [
        {"sender": sender, "message": text, "facts": [{"fid": number, "used": used} for number, used in facts]}
        for sender, text, facts in messages
    ]
    write_json(folder / "curiosity_dialogs.val.json", {"dialogs": [{"messages": rows}]})
    texts = {"1": {"text": "One < ref > {{ cite }} < / ref > fact."}, "2": {"text": "Two."}}
    write_json(folder / "fact_db_links.json", {"linked_facts": texts})


def wizard(*turns: tuple[str, str, dict[str, str], dict[str, str]], rating: int = 5) -> dict[str, Any]:
    """A Wizard of Wikipedia dialogue of (speaker, text, checked_sentence, checked_passage) turns."""
    dialog = [
        {"speaker": speaker, "text": text, "checked_sentence": sentence, "checked_passage": passage}
        for speaker, text, sentence, passage in turns
    ]
    return {"persona": "i like tea.", "wizard_eval": rating, "dialog": dialog}
