"""One edit: what is asked, of whom, and what is to be answered from now on; and the files that edits come from.

Three layouts are read, as JSON (a list, or one object), JSONL, or CSV with the same names as its header:

    {"prompt": "The mother tongue of Danielle Darrieux is", "subject": "Danielle Darrieux", "target": "English"}
    {"requested_rewrite": {"prompt": "The mother tongue of {} is", "subject": "Danielle Darrieux",
     "target_new": {"str": "English"}, "target_true": {"str": "French"}}}                  MEMIT, ROME, CounterFact
    {"prompt": "…", "subject": "…", "target_new": "English", "ground_truth": "French"}     EasyEdit

EasyEdit's zsRE names prompt and target ``src`` and ``alt``. In CSV, aliases are parted by ``|``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diekae.data.example import DataError

SUFFIXES = (".json", ".jsonl", ".csv")
_PROMPTS, _TARGETS, _TRUE = ("prompt", "src"), ("target", "target_new", "alt"), ("target_true", "ground_truth")
_ENDS = re.compile(r"[\s.?!:]+$")


@dataclass(frozen=True)
class Edit:
    """One fact that the decoder is to state from now on.

    Raises:
        ValueError: A text is blank, or the prompt does not contain its subject.
    """

    prompt: str
    """What is asked, the subject in it: the beginning of a sentence, or a question."""
    subject: str
    """Who or what it is asked of, spelt as in the prompt."""
    target: str
    """What is to be answered, without a leading space."""
    aliases: tuple[str, ...] = ()
    """Other names of the subject."""
    target_true: str | None = None
    """What was answered before; for the record and for measurements only."""

    def __post_init__(self) -> None:
        """Check the texts."""
        if isinstance(self.aliases, str):
            raise ValueError(f"aliases={self.aliases!r} must be a tuple of names; write ({self.aliases!r},) for one.")
        object.__setattr__(self, "aliases", tuple(self.aliases))
        texts = {"prompt": self.prompt, "subject": self.subject, "target": self.target}
        texts |= {f"aliases[{number}]": alias for number, alias in enumerate(self.aliases)}
        if self.target_true is not None:
            texts["target_true"] = self.target_true
        for name, text in texts.items():
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"an edit's {name} is {text!r}; give it a text that is not blank.")
        if self.subject not in self.prompt:
            raise ValueError(
                f"the prompt {self.prompt!r} does not contain its subject {self.subject!r}; write the subject as it "
                "stands in the prompt, and its other names as aliases."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Return the subject and its aliases."""
        return (self.subject, *self.aliases)

    @property
    def statement(self) -> str:
        """Return the fact as a text, which the bank reads as knowledge."""
        return f"{self.prompt.strip()} {_ENDS.sub('', self.target.strip())}."

    @property
    def fact(self) -> tuple[str, str]:
        """Return what two edits share that say what the same prompt is answered with: subject and prompt, folded."""
        return _folded(self.subject), _folded(self.prompt)


def _folded(text: str) -> str:
    return " ".join(_ENDS.sub("", text).casefold().split())


def make_edit(record: Mapping[str, Any]) -> Edit:
    """Make the edit that a dictionary of one of the known layouts describes.

    Raises:
        ValueError: It is none of them, or the edit is not possible.
    """
    if "requested_rewrite" in record:
        rewrite = record["requested_rewrite"]
        if isinstance(rewrite, Mapping):
            return make_edit(rewrite)
        raise ValueError(f"requested_rewrite is {rewrite!r}; expected an object with prompt, subject and target_new.")
    found = {name: _first(record, keys) for name, keys in (("prompt", _PROMPTS), ("target", _TARGETS))}
    found["subject"] = _first(record, ("subject",))
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise ValueError(
            f"an edit needs prompt, subject and target (or target_new); {', '.join(missing)} is missing, the keys here "
            f"are {', '.join(map(repr, record)) or 'none'}."
        )
    subject, prompt = found["subject"], found["prompt"]
    if isinstance(subject, str) and isinstance(prompt, str) and "{}" in prompt and subject not in prompt:
        prompt = prompt.replace("{}", subject)
    aliases = record.get("aliases") or ()
    names = tuple(alias.strip() for alias in aliases.split("|")) if isinstance(aliases, str) else tuple(aliases)
    return Edit(prompt, subject, found["target"], names, _first(record, _TRUE) or None)


def _first(record: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """Return the first of the keys that is there; CounterFact wraps objects as ``{"str": …}``."""
    value = next((record[key] for key in keys if record.get(key) is not None), None)
    return value.get("str") if isinstance(value, Mapping) else value


def read_edits(path: str | Path) -> list[Edit]:
    """Read edits from a JSON, JSONL or CSV file.

    Raises:
        DataError: The file is missing, of another kind, or holds no edit, or an entry is none (which, and why).
    """
    path = Path(path)
    if not path.is_file() or path.suffix.lower() not in SUFFIXES:
        what = "no such file" if not path.is_file() else f"a file of kind {path.suffix!r} holds no edits"
        raise DataError(f"{path}: {what}; expected {', '.join(SUFFIXES)}.")
    edits = []
    for place, record in _records(path):
        try:
            if not isinstance(record, Mapping):
                raise ValueError(f"expected an object, got {record!r}.")
            edits.append(make_edit(record))
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: {place}: {error}") from error
    if not edits:
        raise DataError(f"{path}: holds no edit; expected at least one.")
    return edits


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Return each entry with its place in the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            yield from ((f"row {number}", row) for number, row in enumerate(csv.DictReader(text.splitlines()), 1))
        elif path.suffix.lower() == ".jsonl":
            lines = ((number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip())
            yield from ((f"line {number}", json.loads(line)) for number, line in lines)
        else:
            content = json.loads(text)
            entries = content if isinstance(content, list) else [content]
            yield from ((f"entry {number}", entry) for number, entry in enumerate(entries))
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected UTF-8 {path.suffix[1:].upper()}.") from error
