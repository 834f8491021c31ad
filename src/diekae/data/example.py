"""The example: knowledge, input and target, and the JSONL files that hold examples.

One line of such a file:

    {"knowledge": "The Ondrel Bridge opened in 1932.", "input": "When did the Ondrel Bridge open?", "target": "1932"}

``knowledge`` is a text, a list of texts, or null for none. Two keys are optional: ``label``, the class in a
classification set, and ``leaks``, true if the knowledge was made from the target.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from diekae.data.jsonl import DataError as DataError
from diekae.data.jsonl import check_unicode, read_json_lines
from diekae.fields import did_you_mean
from diekae.files import as_path, written_whole

Split = Literal["train", "validation", "test"]
"""The three parts of every data set."""

_KEYS = ("knowledge", "input", "target")


@dataclass(frozen=True, slots=True)
class Example:
    """Knowledge, an input, and the target that follows from both.

    Raises:
        DataError: A text is blank, or a field has the wrong type.
    """

    knowledge: tuple[str, ...]
    """Documents that the target follows from; empty for none."""
    input: str
    """Text that the decoder reads."""
    target: str
    """Text that the decoder should write next, without a leading space."""
    label: str | None = None
    """Class of the example, in a classification set."""
    leaks: bool = False
    """Whether the knowledge was made from the target; such examples do not measure the use of knowledge."""

    def __post_init__(self) -> None:
        if not isinstance(self.knowledge, tuple):
            raise DataError(
                f"knowledge must be a tuple of documents, got {_describe(self.knowledge)}; "
                "write (text,) for one document and () for none"
            )
        for index, document in enumerate(self.knowledge):
            _check_text(f"knowledge[{index}]", document)
        _check_text("input", self.input)
        _check_text("target", self.target)
        if self.label is not None:
            _check_text("label", self.label)
        if not isinstance(self.leaks, bool):
            raise DataError(f"leaks must be true or false, got {_describe(self.leaks)}")


def read_examples(path: str | Path, limit: int | None = None) -> list[Example]:
    """Read examples from a JSONL file in its order, at most ``limit``. Empty lines and unknown keys are ignored.

    Raises:
        DataError: The file is missing or has no example, or a line is not an example.
    """
    check_limit(limit)
    path = as_path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected JSONL with the keys {', '.join(_KEYS)} on each line")
    examples: list[Example] = []
    for place, row in read_json_lines(path):
        try:
            examples.append(make_example(row))
        except DataError as error:
            raise DataError(f"{place}: {error}") from error
        if len(examples) == limit:
            break
    if not examples:
        raise DataError(f"{path}: holds no example; expected at least one line of JSON")
    return examples


def write_examples(path: str | Path, examples: Iterable[Example]) -> None:
    """Write at least one example to a JSONL file. A failure leaves the old file as it was; missing folders are created.

    Raises:
        DataError: There is no example.
    """
    path, count = Path(path), 0
    with written_whole(path) as file:
        for example in examples:
            file.write(example_line(example))
            count += 1
        if not count:
            raise DataError(f"{path}: no example to write; expected at least one")


def check_limit(limit: int | None) -> None:
    """Refuse a limit below 1, by a :class:`DataError`."""
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}; expected at least 1, or None for everything")


def check_split(split: str) -> Split:
    """Return the name of a part of a data set; :class:`DataError` if there is no part of this name."""
    names: tuple[Split, ...] = get_args(Split)
    for name in names:
        if split == name:
            return name
    raise DataError(f"unknown split {split!r}; there are {', '.join(names)}.{did_you_mean(split, names)}")


def make_example(row: object) -> Example:
    """Return the example that a JSON object describes; :class:`DataError` if it describes none."""
    if not isinstance(row, dict):
        raise DataError(f"expected a JSON object, got {_describe(row)}")
    missing = [key for key in _KEYS if key not in row]
    if missing:
        # "knowledge" is required, because a missing key is more often misspelt than meant; null means none.
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
    """Return the line of a JSONL file that `make_example` reads back."""
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
        raise DataError(f"{what} must be text, got {_describe(value)}")
    if not value.strip():
        raise DataError(f"{what} is blank ({value!r}); give it text or leave the example out")
    check_unicode(what, value)


def _describe(value: object) -> str:
    """Return a value with its type, cut short because documents can be long."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
