"""From a data set's upstream files to JSONL files of examples, one a part."""

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

from diekae.data.example import DataError, Example, MissingData, Split, example_line
from diekae.progress import Progress, silent
from diekae_research.data.card import expected_counts, settle_options
from diekae_research.data.request import BadRecords
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
    """Write the parts that the upstream files hold: ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``.

    Examples whose knowledge was made from the target stand apart, in ``train.leak.jsonl`` and so on. Either all files
    appear or none.

    Args:
        name: A registered name.
        raw: The folder with the upstream files; ``None`` for a source that needs none.
        out: The folder to write to; an earlier build in it is replaced.
        options: Values for options of the source's card, or their texts.
        limit: At most this many examples a part, a random subset; all when ``None``.
        seed: Decides the subset, and the documents of a source that makes its own.
        strict: Whether a bad record is an error; it is left out and counted otherwise.
        progress: Told how far each part is.

    Returns:
        The manifest as JSON values: the choices made, and for each part the counts, the counts to expect of the full
        data set, whether they agree, bad records, and the checksum of each file.

    Raises:
        DataError: If a name or value is unknown, the files are missing or not as expected, or `out` holds files that no
            build wrote.
    """
    card = source_card(name)
    settled = settle_options(name, card, options or {})
    expected = None if limit is not None else expected_counts(card, settled)
    read = functools.partial(iterate_source, name, folder=raw, limit=limit, seed=seed, options=settled)
    place = Path(out)
    earlier = _earlier_files(place)
    with _beside(place) as folder:
        parts, missing = _parts(read, folder, raw, expected or (None,) * len(SPLITS), strict, progress)
        _check(name, raw, parts, missing)
        files = {file for part in parts.values() for file in part["files"]}
        for file in files:
            os.replace(folder / file, place / file)
    for file in earlier - files:
        (place / file).unlink(missing_ok=True)
    return {
        "source": name,
        "title": card.title,
        "licence": card.licence,
        "options": settled,
        "limit": limit,
        "seed": seed,
        "splits": parts,
    }


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """Make a folder, and one within it to write into, which does not stay; neither does the first after an error."""
    place.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".build-") as folder:
            yield Path(folder)
    except BaseException:
        with suppress(OSError):  # it was there before, with something in it
            place.rmdir()
        raise


def _parts(
    read: Callable[..., Iterator[Example]],
    folder: Path,
    raw: str | Path | None,
    expected: Sequence[int | None],
    strict: bool,
    progress: Progress,
) -> tuple[dict[str, dict[str, Any]], list[MissingData]]:
    """Write every part that the upstream files hold into a folder; returns what each is, and what was missing."""
    parts: dict[str, dict[str, Any]] = {}
    missing: list[MissingData] = []
    for split, count in zip(SPLITS, expected, strict=True):
        bad = BadRecords(strict)
        try:
            examples = read(split=split, bad=bad)
            part = _write(folder, split, _watched(examples, split, count or 0, progress))
        except MissingData as error:
            missing.append(error)
            part = _missing(error, raw)
        parts[split] = part | _agreement(part, count, bad)
    return parts, missing


def _missing(error: MissingData, raw: str | Path | None) -> dict[str, Any]:
    """Describe a part whose files are not there; a path of one machine says nothing to a reader."""
    return {"examples": 0, "leaking": 0, "missing": str(error).replace(f"{raw}{os.sep}", ""), "files": {}}


def _agreement(part: Mapping[str, Any], expected: int | None, bad: BadRecords) -> dict[str, Any]:
    """Compare a part with the full data set's count, if that is known, and say what was left out of it."""
    found = part["examples"] + part["leaking"]
    agrees = None if expected is None else found == expected
    return {"expected": expected, "agrees": agrees, "bad_records": bad.count, "first_bad_record": bad.first}


def _watched(examples: Iterator[Example], split: str, total: int, progress: Progress) -> Iterator[Example]:
    """Pass the examples on, and say now and then how many there were."""
    count = 0
    for count, example in enumerate(examples, start=1):
        if count % _STEP == 0:
            progress(split, count, max(count, total))
        yield example
    progress(split, count, count)


def _write(folder: Path, split: str, examples: Iterator[Example]) -> dict[str, Any]:
    """Write one part; a file without examples is not named."""
    names = f"{split}.jsonl", f"{split}.leak.jsonl"
    counts, sums = [0, 0], [hashlib.sha256(), hashlib.sha256()]
    with (folder / names[0]).open("wb") as kept, (folder / names[1]).open("wb") as leaking:
        for example in examples:
            line = example_line(example)
            (leaking if example.leaks else kept).write(line)
            counts[example.leaks] += 1
            sums[example.leaks].update(line)
    files = {name: sums[kind].hexdigest() for kind, name in enumerate(names) if counts[kind]}
    return {"examples": counts[0], "leaking": counts[1], "files": files}


def _earlier_files(folder: Path) -> set[str]:
    """The files of an earlier build.

    Raises:
        DataError: If a file that a build would replace was not written by one.
    """
    try:
        splits = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["splits"]
        written = {file for part in splits.values() for file in part["files"]} & set(_OUTPUTS)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        written = set()
    for name in _OUTPUTS:
        if name not in written and (folder / name).exists():
            raise DataError(f"{folder} holds {name}, which no build wrote; choose another folder")
    return written


def _check(name: str, raw: str | Path | None, parts: Mapping[str, dict[str, Any]], missing: list[MissingData]) -> None:
    """Raise what the user should know if nothing at all was built."""
    if any(part["files"] for part in parts.values()):
        return
    if missing:
        raise missing[0]
    first = next((part["first_bad_record"] for part in parts.values() if part["first_bad_record"]), None)
    raise DataError(f"source {name!r} has no example in {raw}" + (f"; the first bad record: {first}" if first else ""))
