"""Build a data set: from its upstream files to JSONL files of examples, one a part."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_args

from diekae.data.example import Example, Split, example_line
from diekae.data.jsonl import DataError
from diekae.progress import Progress, silent
from diekae_research.data.card import expected_counts, settle_options
from diekae_research.data.request import BadRecords, MissingData
from diekae_research.sources import iterate_source, source_card

SPLITS: tuple[Split, ...] = get_args(Split)
MANIFEST = "manifest.json"
_OUTPUTS = tuple(f"{split}{kind}.jsonl" for split in SPLITS for kind in ("", ".leak"))
_STEP = 500
"""Examples between two reports of progress."""


def build_source(
    name: str,
    *,
    raw: str | Path | None,
    out: str | Path,
    options: Mapping[str, object] | None = None,
    limit: int | None = None,
    seed: int = 0,
    strict: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``, as far as the upstream files hold these parts.

    Examples whose knowledge was made from the target go to ``train.leak.jsonl`` and so on. Either all files are
    written or none.

    Args:
        name: A registered name.
        raw: Folder of the upstream files; ``None`` for a source that needs none.
        out: Folder of the result; an earlier build in it is replaced.
        options: Values of the card's options, or their texts.
        limit: At most this many examples a part, a random subset. ``None`` keeps all.
        seed: Decides the subset, and the documents of a source that generates them.
        strict: Stop at a bad record. Otherwise it is left out and counted.
        progress: Called with the examples of each part.

    Returns:
        The manifest as JSON values: all options, and for each part the counts, the expected counts, bad records and
        the checksum of each file.

    Raises:
        DataError: A name or value is unknown, files are missing or damaged, or `out` holds files that no build wrote.
    """
    card = source_card(name)
    settled = settle_options(name, card, options or {})
    expected = None if limit is not None else expected_counts(card, settled)
    read = functools.partial(iterate_source, name, folder=raw, limit=limit, seed=seed, options=settled)
    folder = Path(out)
    earlier = _earlier_files(folder)
    with _temporary_folder(folder) as temporary:
        parts = _write_parts(read, temporary, name, raw, expected or (None,) * len(SPLITS), strict, progress)
        files = {file for part in parts.values() for file in part["files"]}
        for file in files:
            os.replace(temporary / file, folder / file)
    for file in earlier - files:
        (folder / file).unlink(missing_ok=True)
    choices = {"options": settled, "limit": limit, "seed": seed}
    return {"source": name, "title": card.title, "licence": card.licence, **choices, "splits": parts}


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """Create a folder with a temporary one inside; after an error neither stays."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as temporary:
            yield Path(temporary)
    except BaseException:
        with suppress(OSError):  # it is not empty: it was there before
            folder.rmdir()
        raise


def _write_parts(
    read: Callable[..., Iterator[Example]],
    folder: Path,
    name: str,
    raw: str | Path | None,
    expected: Sequence[int | None],
    strict: bool,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Write every part that the upstream files hold; return the description of each.

    Raises:
        DataError: No part has an example.
    """
    parts: dict[str, dict[str, Any]] = {}
    errors: list[DataError] = []
    for split, count in zip(SPLITS, expected, strict=True):
        bad = BadRecords(strict)
        try:
            part = _write(folder, split, _reported(read(split=split, bad=bad), split, count or 0, progress))
        except MissingData as error:
            errors.append(error)
            # The path of one machine says nothing to a reader of the manifest.
            reason = str(error).replace(f"{raw}{os.sep}", "")
            part = {"examples": 0, "leaking": 0, "missing": reason, "files": {}}
        agrees = None if count is None else part["examples"] + part["leaking"] == count
        parts[split] = {
            **part,
            "expected": count,
            "agrees": agrees,
            "bad_records": bad.count,
            "first_bad_record": bad.first,
        }
    if not any(part["files"] for part in parts.values()):
        first = next((part["first_bad_record"] for part in parts.values() if part["first_bad_record"]), None)
        reason = f"; the first bad record: {first}" if first else ""
        raise errors[0] if errors else DataError(f"source {name!r} has no example in {raw}{reason}")
    return parts


def _reported(examples: Iterator[Example], split: str, total: int, progress: Progress) -> Iterator[Example]:
    """Yield the examples, and report progress now and then."""
    count = 0
    for count, example in enumerate(examples, start=1):
        if count % _STEP == 0:
            progress(split, count, max(count, total))
        yield example
    progress(split, count, count)


def _write(folder: Path, split: str, examples: Iterator[Example]) -> dict[str, Any]:
    """Write one part; return its counts and the checksums of files that hold examples."""
    names = f"{split}.jsonl", f"{split}.leak.jsonl"
    counts, sums = [0, 0], [hashlib.sha256(), hashlib.sha256()]
    with (folder / names[0]).open("wb") as usable, (folder / names[1]).open("wb") as leaking:
        for example in examples:
            line = example_line(example)
            (leaking if example.leaks else usable).write(line)
            counts[example.leaks] += 1
            sums[example.leaks].update(line)
    files = {name: sums[kind].hexdigest() for kind, name in enumerate(names) if counts[kind]}
    return {"examples": counts[0], "leaking": counts[1], "files": files}


def _earlier_files(folder: Path) -> set[str]:
    """Return the files of an earlier build.

    Raises:
        DataError: A file that would be replaced was not written by a build.
    """
    try:
        splits = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["splits"]
        written = {file for part in splits.values() for file in part["files"]} & set(_OUTPUTS)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        written = set()
    for name in _OUTPUTS:
        if name not in written and (folder / name).exists():
            raise DataError(f"{folder} holds {name}, which no build wrote; choose another folder")
    return written
