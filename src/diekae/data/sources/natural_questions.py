"""Natural Questions with the passage that answers them (Kwiatkowski et al., 2019). Two files, either may be missing.

``natural-questions-short-1000.csv`` has the columns context, question, golden_answer (text left out at [...]):

    "The Truman Doctrine was an American foreign policy created to counter Soviet geopolitical expansion during the Cold
    War . [...]",what did the u.s. policy called the truman doctrine promise to do,created to counter Soviet
    geopolitical expansion during the Cold War

``nq-open-oracle-2000.jsonl`` has the gold passage as the only one in ``ctxs``:

    {"question": "dogs name in the grinch who stole christmas", "answers": ["Max"], "ctxs": [{"title": "How the Grinch
     Stole Christmas!", "text": "[...] His only companion is his unloved, but loyal dog, Max. [...]", ...}], ...}
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from diekae.data.example import DataError, Example, Split
from diekae.data.sources import Request, register

UPSTREAM = "Natural Questions (google-research-datasets/natural-questions, or its open-domain oracle version)"
SHORT_FILE = "natural-questions-short-1000.csv"
ORACLE_FILE = "nq-open-oracle-2000.jsonl"


@register("natural_questions")
def load_natural_questions(request: Request) -> list[Example]:
    """Passage, question and first answer, where the passage says the answer.

    The files have no parts of their own: a hash of the question puts 80 / 10 / 10 % into train, validation and test, so
    that a question stays in its part whichever files are there.
    """
    short, oracle = (request.path(name, UPSTREAM) for name in (SHORT_FILE, ORACLE_FILE))
    if not short.is_file() and not oracle.is_file():
        raise DataError(f"{request.folder}: holds neither {SHORT_FILE} nor {ORACLE_FILE}; get one from {UPSTREAM}")
    seen: set[str] = set()
    examples = []
    for path, rows in ((short, _short_rows), (oracle, _oracle_rows)):
        if not path.is_file():
            continue
        for passage, question, answer in rows(path):
            question = as_question(question)
            # Four short records have an empty answer, which any passage "contains".
            if not answer or answer.lower() not in passage.lower() or question.lower() in seen:
                continue
            seen.add(question.lower())
            if _split_of(question) == request.split:
                examples.append(Example((passage,), question, answer))
    return examples


def as_question(text: str) -> str:
    """The query as typed into a search box, with a capital and a question mark."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith("?") else "?")


def _short_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        wanted = ("context", "question", "golden_answer")
        if not set(wanted) <= set(rows.fieldnames or ()):
            raise DataError(f"{path}: its columns are {rows.fieldnames}; expected {', '.join(wanted)}")
        for row in rows:
            if any(row[column] is None for column in wanted):
                raise DataError(f"{path}: the record that ends on line {rows.line_num} has too few columns")
            yield row["context"].strip(), row["question"], row["golden_answer"].strip()


def _oracle_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                yield row["ctxs"][0]["text"].strip(), row["question"], row["answers"][0].strip()
            except (ValueError, TypeError, LookupError) as error:
                raise DataError(f"{path}:{number}: not a record with question, answers and ctxs ({error!r})") from error


def _split_of(question: str) -> Split:
    bucket = int.from_bytes(hashlib.sha256(question.lower().encode()).digest()[:8], "big") % 100
    return "train" if bucket < 80 else "validation" if bucket < 90 else "test"
