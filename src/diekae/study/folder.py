"""A folder of documents, divided into parts by document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from diekae.data.example import Split
from diekae.data.splits import split_of
from diekae.progress import Progress, silent
from diekae.readers import read_document
from diekae.store.intake import find_documents
from diekae.store.passages import Passage, split, token_counter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARTS: tuple[Split, ...] = ("train", "validation", "test")
FEWEST = 3
"""Fewest documents: each part needs one."""
TOKENS = 320
"""Most tokens of a window: neighbouring passages are joined up to this length."""


@dataclass(frozen=True)
class Window:
    """A stretch of a document that is used as K."""

    document: str
    """Name of its document."""
    text: str


@dataclass
class Folder:
    """The documents of a folder, cut into windows."""

    windows: dict[Split, list[Window]] = field(default_factory=lambda: {part: [] for part in PARTS})
    """Windows of each part; all windows of a document are in one part."""
    documents: int = 0
    """Number of documents that were read."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Files that could not be read, and why."""
    skipped: list[str] = field(default_factory=list)
    """Files of a kind that is not known."""


def read_folder(path: Path | None, tokenizer: PreTrainedTokenizerBase | None, progress: Progress = silent) -> Folder:
    """Read all documents below a folder, or those that come with the package, and cut them into windows.

    Without a tokenizer, four characters count as a token.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: Fewer than three documents can be read.
    """
    folder = Folder()
    texts: dict[str, str] = {}
    if path is None:
        texts = shipped_documents()
    elif not path.exists():
        raise FileNotFoundError(f"no folder at {str(path)!r}; expected a folder of documents.")
    else:
        documents = find_documents(path)
        folder.skipped = [str(file) for file in documents.skipped]
        for number, file in enumerate(documents.readable, start=1):
            try:
                texts[str(file.relative_to(path))] = read_document(file)
            except (ValueError, OSError, ModuleNotFoundError) as error:
                folder.failed.append((str(file), str(error)))
            progress("reading", number, len(documents.readable))
    folder.documents = len(texts)
    if len(texts) < FEWEST:
        where = "the package" if path is None else repr(str(path))
        reason = f"; the first that failed: {folder.failed[0][1]}" if folder.failed else ""
        raise ValueError(
            f"{where} holds {len(texts)} readable documents; expected at least {FEWEST}, one each to train on, to "
            f"validate on and to test on{reason}"
        )
    for part, names in _divide(list(texts)).items():
        for name in names:
            folder.windows[part] += [Window(name, window) for window in cut(texts[name], tokenizer)]
    return folder


def shipped_documents() -> dict[str, str]:
    """Return the documents that come with the package, by name."""
    folder = files("diekae.study") / "documents"
    return {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".md")}


def cut(text: str, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    """Cut a document into windows of whole passages."""
    count_tokens = token_counter(tokenizer)
    windows: list[list[Passage]] = []
    for passage in split(text, tokenizer):
        if windows and count_tokens(text[windows[-1][0].start : passage.end]) <= TOKENS:
            windows[-1].append(passage)
        else:
            windows.append([passage])
    return [text[window[0].start : window[-1].end] for window in windows]


def _divide(names: Sequence[str]) -> dict[Split, list[str]]:
    """Divide documents by a hash of their names; a part that got none takes one from the largest."""
    parts: dict[Split, list[str]] = {part: [] for part in PARTS}
    for name in names:
        parts[split_of(name)].append(name)
    for part in PARTS:
        if not parts[part]:
            parts[part].append(max(parts.values(), key=len).pop())
    return parts
