"""The example: knowledge, input and target, and the JSONL file that holds many of them.

    {"knowledge": "The Ondrel Bridge opened in 1932.", "input": "When did the Ondrel Bridge open?", "target": "1932"}

``knowledge`` is a text, a list of texts, or null for none. Two further keys may be there: ``label``, the class of an
example of a classification set, and ``leaks``, true where the knowledge was made from the target.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from diekae.files import written_whole

Split = Literal["train", "validation", "test"]
"""The three parts of every data set."""

_KEYS = ("knowledge", "input", "target")


class DataError(ValueError):
    """Data that cannot be used: which file, what is wrong with it, and what was expected."""


class MissingData(DataError):
    """Data that is not there: which file, and where it can be had."""


@dataclass(frozen=True, slots=True)
class Example:
    """One question to a decoder, with what it should know and what it should say.

    Raises:
        DataError: If a text is blank or of another type.
    """

    knowledge: tuple[str, ...]
    """The documents the answer follows from; empty for no knowledge."""
    input: str
    """What the decoder is given."""
    target: str
    """What the decoder should continue with, without a leading space."""
    label: str | None = None
    """The class, in a classification set."""
    leaks: bool = False
    """Whether the knowledge was made from the target: it then says nothing about the use of knowledge."""

    def __post_init__(self) -> None:
        """Check types and reject blank texts."""
        if not isinstance(self.knowledge, tuple):
            raise DataError(
                f"knowledge must be a tuple of documents, got {_shown(self.knowledge)}; "
                "write (text,) for one document and () for none"
            )
        for index, document in enumerate(self.knowledge):
            _check_text(f"knowledge[{index}]", document)
        _check_text("input", self.input)
        _check_text("target", self.target)
        if self.label is not None:
            _check_text("label", self.label)
        if not isinstance(self.leaks, bool):
            raise DataError(f"leaks must be true or false, got {_shown(self.leaks)}")


def read_examples(path: str | Path, limit: int | None = None) -> list[Example]:
    """Read examples from a JSONL file.

    A line is ``{"knowledge": str | [str, ...] | null, "input": str, "target": str}``, with ``label`` and ``leaks``
    where an example has them; further keys and empty lines are ignored.

    Args:
        path: The file, UTF-8.
        limit: Read only this many examples, from the top; all when ``None``.

    Returns:
        The examples in the order of the file.

    Raises:
        DataError: If the file is missing or holds no example, or a line is not an example (file, line number, reason).
    """
    check_limit(limit)
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected JSONL with the keys {', '.join(_KEYS)} on each line")
    examples: list[Example] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                examples.append(make_example(parse_json(line)))
            except DataError as error:
                raise DataError(f"{path}:{number}: {error}") from error
            if len(examples) == limit:
                break
    if not examples:
        raise DataError(f"{path}: holds no example; expected at least one line of JSON")
    return examples


def write_examples(path: str | Path, examples: Iterable[Example]) -> None:
    """Write examples as JSONL, so that `read_examples` gives them back.

    The file appears whole or not at all: it is written beside its place, then moved there. Folders are made as needed.

    Args:
        path: The file to write or replace.
        examples: What to write, at least one.

    Raises:
        DataError: If there is no example, since an empty file could not be read back.
    """
    path, empty = Path(path), True
    with written_whole(path) as file:
        for example in examples:
            file.write(example_line(example))
            empty = False
        if empty:
            raise DataError(f"{path}: no example to write; expected at least one")


def check_limit(limit: int | None) -> None:
    """Reject a limit that is not a positive number of examples.

    Raises:
        DataError: If `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}; expected at least 1, or None for everything")


def check_split(split: str) -> Split:
    """Return `split` if it is the name of a part.

    Raises:
        DataError: If it is not.
    """
    names: tuple[Split, ...] = get_args(Split)
    for name in names:
        if split == name:
            return name
    raise DataError(f"unknown split {split!r}{nearest(split, names)}; there are {', '.join(names)}")


def nearest(name: str, names: Sequence[str]) -> str:
    """A suggestion to put behind an unknown name; empty if nothing is near."""
    near = difflib.get_close_matches(name, names)
    return f", did you mean {' or '.join(map(repr, near))}?" if near else ""


def parse_json(content: bytes) -> object:
    """The JSON value of one line, or of a whole file.

    Raises:
        DataError: If it is not JSON in UTF-8.
    """
    try:
        # Editors on Windows put a byte order mark at the beginning, which is no part of the JSON.
        value: object = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON ({error.msg} at column {error.colno})") from error
    return value


def make_example(row: object) -> Example:
    """Make the example that a JSON object of the format describes.

    Raises:
        DataError: If it is not one.
    """
    if not isinstance(row, dict):
        raise DataError(f"expected a JSON object, got {_shown(row)}")
    missing = [key for key in _KEYS if key not in row]
    if missing:
        # A missing "knowledge" is more often a misspelt key than a wish for none, which null says plainly.
        raise DataError(
            f"no key {', '.join(map(repr, missing))}; the keys here are {', '.join(map(repr, row)) or 'none'}"
        )
    knowledge = row["knowledge"]
    if knowledge is None:
        documents: tuple[str, ...] = ()
    elif isinstance(knowledge, list):
        documents = tuple(knowledge)
    else:
        _check_text("knowledge", knowledge)
        documents = (knowledge,)
    return Example(documents, row["input"], row["target"], row.get("label"), row.get("leaks", False))


def example_line(example: Example) -> bytes:
    """The line of a JSONL file that `make_example` reads back."""
    documents = example.knowledge
    knowledge: object = None if not documents else documents[0] if len(documents) == 1 else list(documents)
    row: dict[str, object] = {"knowledge": knowledge, "input": example.input, "target": example.target}
    if example.label is not None:
        row["label"] = example.label
    if example.leaks:
        row["leaks"] = True
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


def _check_text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise DataError(f"{what} must be text, got {_shown(value)}")
    if not value.strip():
        raise DataError(f"{what} is blank ({value!r}); give it text or leave the example out")


def _shown(value: object) -> str:
    """A value with its type, cut short: documents can be long."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
