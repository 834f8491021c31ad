"""How does the time of each call of a store grow with the number of its documents?

    python research/experiments/store_scale.py --json research/results/store-scale.json

Run it at the root of the repository: the tiny random model is that of the tests. Every document has one passage and a
prepared file of its own. Each time is the best of five.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from builders import make_model
from diekae.files import write_atomically
from diekae.provenance import write_json
from diekae.store import KnowledgeStore
from diekae.store.catalogue import DocumentSource, IndexedPassage, PreparedFile, document_id
from diekae.store.layout import prepared_path

CASTLE = "the castle is red"


def fill(store: KnowledgeStore, first: int, last: int, content: bytes) -> None:
    """Add documents with a passage and a prepared file each."""
    vectors = np.random.default_rng(first).standard_normal((last - first, 256)).astype(np.float16)
    for number, vector in enumerate(vectors, first):
        text = f"document {number}"
        id, path = document_id(text), f"/docs/{number}.txt"
        passage = IndexedPassage(0, len(text), "", text, vector.tobytes())
        file = prepared_path(store.bank, id, "0")
        digest = hashlib.sha256(content).hexdigest()
        with store.catalogue.writing():
            store.catalogue.documents.put(DocumentSource(path, id), f"{number}.txt", text, [passage])
            write_atomically(store.folder / file, content)
            row = PreparedFile(id, store.bank, file, digest, len(content), 4, "exact")
            store.catalogue.prepared_files.insert(row)


def milliseconds(call: Callable[[], Any]) -> float:
    """Return the best of five times."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return round(min(times) * 1e3, 3)


def measure(sizes: list[int], folder: Path) -> dict[str, dict[str, Any]]:
    """Return the milliseconds of each call by the number of documents, and the last as a ratio to the first."""
    store = KnowledgeStore(folder / "store", make_model("reader"))
    (folder / "docs").mkdir()
    (folder / "docs" / "a.txt").write_text(CASTLE)
    (castle,) = store.add(folder / "docs").ids
    content = store.prepared(castle).to_bytes()
    added = iter(range(10**9))

    def add_and_search() -> None:
        store.add(f"the tower {next(added)} is blue")
        store.search("castle")

    calls: dict[str, Callable[[], Any]] = {
        "open": lambda: KnowledgeStore(store.folder).bank,
        "add a known text": lambda: store.add(CASTLE),
        "add a known folder": lambda: store.add(folder / "docs"),
        "add a new text and remove it": lambda: store.remove(store.add("the tower is blue").ids[0]),
        "prepared, by id": lambda: store.prepared(castle),
        "prepared, by title": lambda: store.prepared("a.txt"),
        "text": lambda: store.text(castle),
        "the first document of iter_documents": lambda: next(store.iter_documents()),
        "all of iter_documents": lambda: sum(1 for _ in store.iter_documents()),
        "prepare_missing": store.prepare_missing,
        "search": lambda: store.search("castle"),
        "search in one document": lambda: store.search("castle", documents=[castle]),
        "add a new text, then search": add_and_search,
    }
    times: dict[str, dict[str, Any]] = {name: {} for name in calls}
    for first, last in zip([0, *sizes], sizes, strict=False):
        fill(store, first, last, content)
        for name, call in calls.items():
            call()
            times[name][str(last)] = milliseconds(call)
    for row in times.values():
        row["ratio"] = round(row[str(sizes[-1])] / row[str(sizes[0])], 2)
    return times


def main() -> None:
    """Measure two sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 20_000], help="numbers of documents, ascending")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {"unit": "ms", "calls": measure(arguments.sizes, Path(folder))}
    print(json.dumps(result, indent=2))
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
