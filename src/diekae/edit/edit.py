"""One edit: the prompt, its subject and the new target; and the files that edits are read from.

A file is JSON (a list, or one object), JSONL, or CSV with the same names as its header. Three layouts are read:

    {"prompt": "The mother tongue of Danielle Darrieux is", "subject": "Danielle Darrieux", "target": "English"}
    {"requested_rewrite": {"prompt": "The mother tongue of {} is", "subject": "Danielle Darrieux",
     "target_new": {"str": "English"}, "target_true": {"str": "French"}}}                  MEMIT, ROME, CounterFact
    {"prompt": "…", "subject": "…", "target_new": "English", "ground_truth": "French"}     EasyEdit

EasyEdit's zsRE names prompt and target ``src`` and ``alt``. In CSV, aliases are separated by ``|``.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diekae.data.jsonl import DataError, check_unicode, parse_json, read_json_lines
from diekae.edit.folding import fold
from diekae.files import as_path

SUFFIXES = (".json", ".jsonl", ".csv")
_PROMPT_KEYS, _TARGET_KEYS = ("prompt", "src"), ("target", "target_new", "alt")
_TRUE_TARGET_KEYS = ("target_true", "ground_truth")
_FINAL_MARKS = re.compile(r"[\s.?!:]+$")


@dataclass(frozen=True)
class Edit:
    """One fact that the decoder shall state.

    Raises:
        ValueError: A text is blank or not Unicode, or the prompt does not contain its subject.
    """

    prompt: str
    """The beginning of a sentence, or a question. It contains the subject."""
    subject: str
    """Who or what the fact is about, spelt as in the prompt."""
    target: str
    """The new answer, without a leading space."""
    aliases: tuple[str, ...] = ()
    """Other names of the subject."""
    target_true: str | None = None
    """The answer before the edit; only recorded and used in measurements."""

    def __post_init__(self) -> None:
        if isinstance(self.aliases, str):
            raise ValueError(f"aliases={self.aliases!r} must be a tuple of names; write ({self.aliases!r},) for one.")
        object.__setattr__(self, "aliases", tuple(self.aliases))
        texts = {"prompt": self.prompt, "subject": self.subject, "target": self.target}
        texts |= {f"aliases[{number}]": alias for number, alias in enumerate(self.aliases)}
        if self.target_true is not None:
            texts["target_true"] = self.target_true
        for name, text in texts.items():
            if not isinstance(text, str) or not fold(text).folded.strip():
                raise ValueError(f"an edit's {name} is {text!r}; expected a text that is not blank.")
            check_unicode(f"an edit's {name}", text)
        if self.subject not in self.prompt:
            raise ValueError(
                f"the prompt {self.prompt!r} does not contain its subject {self.subject!r}; spell the subject as in "
                "the prompt, and give its other names as aliases."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Return the subject and its aliases."""
        return (self.subject, *self.aliases)

    @property
    def folded_names(self) -> tuple[str, ...]:
        """Return the names without case, width and normal form, each once."""
        return tuple(dict.fromkeys(fold(name.strip()).folded for name in self.names))

    @property
    def statement(self) -> str:
        """Return the fact as one sentence, which the bank reads as knowledge."""
        return f"{self.prompt.strip()} {_FINAL_MARKS.sub('', self.target.strip())}."

    @property
    def fact(self) -> tuple[str, str]:
        """Return subject and prompt, folded. A newer edit of the same fact supersedes an older one."""
        return _folded(self.subject), _folded(self.prompt)


def _folded(text: str) -> str:
    return " ".join(_FINAL_MARKS.sub("", fold(text).folded).split())


def make_edit(record: Mapping[str, Any]) -> Edit:
    """Make an edit from a dictionary in one of the known layouts.

    Raises:
        ValueError: The layout is not known, or the edit is not valid.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"expected an object, got {record!r}.")
    if "requested_rewrite" in record:
        rewrite = record["requested_rewrite"]
        if isinstance(rewrite, Mapping):
            return make_edit(rewrite)
        raise ValueError(f"requested_rewrite is {rewrite!r}; expected an object with prompt, subject and target_new.")
    values = {name: _first(record, keys) for name, keys in (("prompt", _PROMPT_KEYS), ("target", _TARGET_KEYS))}
    values["subject"] = _first(record, ("subject",))
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise ValueError(
            f"an edit needs prompt, subject and target (or target_new); {', '.join(missing)} is missing, the keys here "
            f"are {', '.join(map(repr, record)) or 'none'}."
        )
    subject, prompt = values["subject"], values["prompt"]
    if isinstance(subject, str) and isinstance(prompt, str) and "{}" in prompt and subject not in prompt:
        prompt = prompt.replace("{}", subject)
    aliases = record.get("aliases") or ()
    if not isinstance(aliases, str | list | tuple):
        raise ValueError(f"an edit's aliases are {aliases!r}; expected a list of names.")
    names = tuple(alias.strip() for alias in aliases.split("|")) if isinstance(aliases, str) else tuple(aliases)
    return Edit(prompt, subject, values["target"], names, _first(record, _TRUE_TARGET_KEYS) or None)


def _first(record: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """Return the value of the first key that the record has; CounterFact wraps texts as ``{"str": …}``."""
    value = next((record[key] for key in keys if record.get(key) is not None), None)
    return value.get("str") if isinstance(value, Mapping) else value


def read_edits(path: str | Path) -> list[Edit]:
    """Read edits from a JSON, JSONL or CSV file.

    Raises:
        DataError: The file is missing, has another suffix, or has no edit; or an entry is not valid (which, and why).
    """
    path = as_path(path)
    if not path.is_file() or path.suffix.lower() not in SUFFIXES:
        problem = "no such file" if not path.is_file() else f"a file of kind {path.suffix!r} holds no edits"
        raise DataError(f"{path}: {problem}; expected {', '.join(SUFFIXES)}.")
    edits = []
    for place, record in _records(path):
        try:
            edits.append(make_edit(record))
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{place}: {error}") from error
    if not edits:
        raise DataError(f"{path}: holds no edit; expected at least one.")
    return edits


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each entry of a file, with its place for messages."""
    kind = path.suffix.lower()
    if kind == ".jsonl":
        yield from read_json_lines(path)
    elif kind == ".json":
        try:
            content = parse_json(path.read_bytes())
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        entries = content if isinstance(content, list) else [content]
        yield from ((f"{path}: entry {number}", entry) for number, entry in enumerate(entries))
    else:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:  # a quoted text may contain line breaks
                for number, row in enumerate(csv.DictReader(file, strict=True), 1):
                    if None in row:
                        raise csv.Error(
                            f"row {number} has more values than the header; quote texts that contain commas"
                        )
                    yield f"{path}: row {number}", row
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: not CSV in UTF-8 ({error})") from error
