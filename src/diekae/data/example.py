"""The example: knowledge, input and target, and the JSONL file that holds many of them.

    {"knowledge": "The Ondrel Bridge opened in 1932.", "input": "When did the Ondrel Bridge open?", "target": "1932"}

``knowledge`` is a text, a list of texts, or null for none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "validation", "test"]
"""The three parts of every data set."""

_KEYS = ("knowledge", "input", "target")


class DataError(ValueError):
    """Data that cannot be used: which file, what is wrong with it, and what was expected."""


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


def read_examples(path: str | Path, limit: int | None = None) -> list[Example]:
    """Read examples from a JSONL file.

    A line is ``{"knowledge": str | [str, ...] | null, "input": str, "target": str}``; further keys and empty lines are
    ignored.

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
    for number, line in _numbered_lines(path):
        if not line.strip():
            continue
        try:
            examples.append(_parse(line))
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
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    empty = True
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            for example in examples:
                file.write(_line(example))
                empty = False
        if empty:
            raise DataError(f"{path}: no example to write; expected at least one")
        os.replace(beside, path)
    except BaseException:
        with suppress(FileNotFoundError):
            beside.unlink()
        raise


def check_limit(limit: int | None) -> None:
    """Reject a limit that is not a positive number of examples.

    Raises:
        DataError: If `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}; expected at least 1, or None for everything")


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line), decoded one at a time so that an error can name the line."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                # Editors on Windows put a byte order mark before the first line, which is no part of the JSON.
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error


def _parse(line: str) -> Example:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON ({error.msg} at column {error.colno})") from error
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
    return Example(documents, row["input"], row["target"])


def _line(example: Example) -> str:
    documents = example.knowledge
    knowledge: object = None if not documents else documents[0] if len(documents) == 1 else list(documents)
    row = {"knowledge": knowledge, "input": example.input, "target": example.target}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _check_text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise DataError(f"{what} must be text, got {_shown(value)}")
    if not value.strip():
        raise DataError(f"{what} is blank ({value!r}); give it text or leave the example out")


def _shown(value: object) -> str:
    """A value with its type, cut short: documents can be long."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
