"""The knowledge store: documents in a folder, each prepared once by a bank, picked by id or by question.

    FOLDER/catalogue.sqlite                    documents, where they came from, the index that questions are put to
    FOLDER/memories/BANK/DOCUMENT-….safetensors

A memory's file is written, then its row: a kill between the two leaves a file that nobody names, and never a row
without its file. Files have names of their own, so a writer that removes a document cannot hit one that adds it again.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from diekae.files import write_atomically
from diekae.fingerprint import fingerprint
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.store.blob import PRECISIONS, pack, unpack
from diekae.store.catalogue import Catalogue, Entry, Indexed, Prepared, Vectors
from diekae.store.intake import Added, document_id, places_of, title_of
from diekae.store.passages import split
from diekae.store.readers import read_document
from diekae.store.verify import Fault, find_faults
from diekae.store.words import Embedder, asked_words, static_embedder, words_of

BATCH = 16
"""Documents that are prepared together, and kept before the next ones are begun."""
LIKENESS = 1.0
"""Weight of a passage's likeness to the question (cosine), beside its share of the best BM25 score."""


@dataclass(frozen=True)
class Found:
    """A passage that a question led to."""

    id: str
    """Its document's id."""
    title: str
    """Its document's title."""
    heading: str
    """The headings above it, from the outermost; empty where there is none."""
    text: str
    """The passage."""
    start: int
    """Its first character in the document."""
    end: int
    """The character behind its last."""
    score: float
    """Words and likeness together; comparable within one search only."""
    coverage: float
    """Its BM25 score as a share of the highest that any passage could have, from 0 to 1."""
    likeness: float
    """Cosine of its vector and the question's, from -1 to 1."""


class KnowledgeStore:
    """Documents and their prepared memory on disk, for any number of readers and writers at once."""

    def __init__(
        self,
        folder: str | Path,
        model: DiekaeModel | None = None,
        *,
        precision: str = "exact",
        embed: Embedder | None = None,
    ) -> None:
        """Open a store, or begin one.

        Args:
            folder: Where it lies.
            model: Who prepares; without one the store can be listed, searched, cleared and verified.
            precision: How new memories are kept: ``exact``, ``bf16`` (half of fp32) or ``int8`` (a quarter).
            embed: Turns texts into vectors of length 1, by which passages are found that share no word with the
                question; WordLlama's static embeddings if None. One store has one embedder.

        Raises:
            ValueError: The precision is not known, or the folder holds a damaged catalogue.
            OSError: The folder cannot be written.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r} is not known; choose one of {', '.join(PRECISIONS)}.")
        self.folder, self.model, self.precision, self._embed = Path(folder), model, precision, embed
        self._vectors: Vectors | None = None
        self.catalogue = Catalogue(self.folder / "catalogue.sqlite")

    def __repr__(self) -> str:
        """Say on one line where the store is and how many documents it holds; also of one that is damaged."""
        try:
            with self.catalogue.reading() as connection:
                count = connection.execute("SELECT count(*) FROM documents").fetchone()[0]
        except (OSError, ValueError):
            return f"KnowledgeStore({str(self.folder)!r}, its catalogue cannot be read)"
        return f"KnowledgeStore({str(self.folder)!r}, {count} documents)"

    @property
    def bank(self) -> str:
        """Return the key of the model's bank, under which memories lie; the only one there is if there is no model."""
        if self.model is not None:
            return f"{self.model.bank.fingerprint()}-{self._circumstances}"
        banks = self.catalogue.banks()
        return banks[0] if len(banks) == 1 else ""

    @cached_property
    def _circumstances(self) -> str:
        """Return a digest of what a memory depends on besides the text and the bank's weights.

        Which decoder they read, where in it, and what stands around K.
        """
        model = self._need_model()
        config = model.config
        parts = (fingerprint(model.decoder), config.site, config.template, config.anchor, model.anchor)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]

    def add(
        self,
        documents: str | Path | Iterable[str | Path],
        *,
        prune: bool = False,
        prepare: bool = True,
        progress: Progress = silent,
    ) -> Added:
        """Add documents, and prepare what this bank has not prepared yet.

        A file that is as it was is not read again; a file that changed leaves its old text. Work that is cut off goes
        on where it stopped.

        Args:
            documents: A text (``str``), a file or folder (``Path``), or several of them. A ``str`` is never opened: one
                that names a file or folder is refused.
            prune: Also remove files of the given folders that are no longer on disk.
            prepare: Prepare them now; otherwise each when it is first read.
            progress: Told how far reading and preparing are.

        Raises:
            FileNotFoundError: A named file or folder does not exist.
            ValueError: A text is blank or names a file, a named file cannot be read, or there is no model.
        """
        self._need_model()
        given = [documents] if isinstance(documents, str | Path) else list(documents)
        added, known = Added(), self.catalogue.sources()
        places = places_of(given, known, added)
        for number, (place, named) in enumerate(places):
            if isinstance(place, str):
                added.ids.append(self._note(place, title_of(place), document_id(place)))
            else:
                self._add_file(place, named, known, added)
            progress("reading", number + 1, len(places))
        if prune:
            for place in added.gone:
                self._unlink(self.catalogue.leave(place))
        added.ids = list(dict.fromkeys(added.ids))
        added.prepared = self._prepare(added.ids, progress) if prepare else []
        return added

    def add_text(self, text: str, *, title: str) -> Added:
        """Add one text under a title of its own, and prepare it.

        Raises:
            ValueError: The text is blank, or there is no model.
        """
        self._need_model()
        if not text.strip():
            raise ValueError(f"the text of {title!r} is empty; give a document.")
        document = document_id(text)
        added = Added([self._note(text, title, document)])
        added.prepared = self._prepare(added.ids, silent)
        return added

    def prepare_missing(self, progress: Progress = silent) -> list[str]:
        """Prepare all documents that this bank has not prepared yet; returns their ids."""
        return self._prepare([entry.id for entry in self.documents()], progress)

    def documents(self) -> list[Entry]:
        """Return all documents, in the order they were added."""
        return self.catalogue.entries(self.bank)

    def remove(self, name: str) -> Entry:
        """Forget a document, with the memories of all banks.

        Args:
            name: Its id or a beginning of it, a file that holds it, or its title.

        Raises:
            ValueError: No document, or several, have that name.
        """
        document = self.catalogue.find(name)
        (entry,) = self.catalogue.entries(self.bank, [document])
        self._unlink(self.catalogue.drop(document))
        return entry

    def verify(self, *, repair: bool = False, progress: Progress = silent) -> list[Fault]:
        """Compare catalogue and files; with ``repair`` remove what is wrong: it is prepared anew when it is needed."""
        return find_faults(self.folder, self.catalogue, repair=repair, progress=progress)

    def prepared(self, *names: str) -> PreparedKnowledge:
        """Return what a document, or several together, were prepared to: fit for ``model.generate(…, knowledge=…)``.

        What this bank has not prepared yet is prepared now, and kept.

        Args:
            *names: Documents, named as for :meth:`remove`.

        Raises:
            ValueError: No document is named, or none has that name; it is not prepared and there is no model; or its
                file is damaged.
        """
        if not names:
            raise ValueError("no document is named; expected at least one id.")
        return PreparedKnowledge.join([self._prepared(self.catalogue.find(name)) for name in names])

    def text(self, name: str) -> str:
        """Return a document's text; named as for :meth:`remove`."""
        return self.catalogue.text(self.catalogue.find(name))

    def search(self, question: str, k: int = 3, *, documents: Sequence[str] = ()) -> list[Found]:
        """Return the k passages that answer a question best, the best first; none if the store is empty.

        A passage's score is its share of the best BM25 score, and the cosine of its vector and the question's.

        Args:
            question: What is asked.
            k: Most passages that are returned.
            documents: Look only into these, named as for :meth:`remove`; all if empty.

        Raises:
            ValueError: k is not positive, no document has one of the names, or the store's vectors are another
                embedder's.
        """
        if k < 1:
            raise ValueError(f"k={k} must be at least 1.")
        self._vectors = vectors = self.catalogue.vectors(self._vectors)  # other threads may put theirs in its place
        numbers, matrix = vectors.numbers, vectors.matrix
        if not numbers:
            return []
        asked = self.embedder([question])[0]
        if len(asked) != matrix.shape[1]:
            raise ValueError(
                f"the embedder gives {len(asked)} dimensions, but passages of {str(self.folder)!r} have "
                f"{matrix.shape[1]}; open the store with the embedder it was filled with."
            )
        likeness = matrix @ asked
        shared = self.catalogue.search(asked_words(question))
        best = max((one.score for one in shared.values()), default=0.0) or 1.0
        by_words = np.array([shared[number].score / best if number in shared else 0.0 for number in numbers])
        scores = by_words + LIKENESS * likeness
        order = np.argsort(-scores, kind="stable")
        if documents:
            wanted = self.catalogue.numbers([self.catalogue.find(name) for name in documents])
            order = np.array([row for row in order if numbers[row] in wanted], dtype=int)
        order = order[:k]
        place = {numbers[row]: row for row in order.tolist()}
        return [
            Found(
                row.document,
                row.title,
                row.heading,
                row.text,
                row.start,
                row.end,
                float(scores[place[row.number]]),
                shared[row.number].coverage if row.number in shared else 0.0,
                float(likeness[place[row.number]]),
            )
            for row in self.catalogue.passages(list(place))
        ]

    def read(self, found: Sequence[Found]) -> PreparedKnowledge:
        """Return the slots of some passages, in the order of their documents: fit for ``model.generate``.

        A passage was read with all of its document before it, so it says what it says there.

        Raises:
            ValueError: No passage is given, or its document is gone.
        """
        if not found:
            raise ValueError("no passage is given; expected at least one, as search returns them.")
        prompter = self._need_model().need_prompter()
        pieces: dict[str, list[tuple[int, int]]] = {}
        for one in found:
            pieces.setdefault(one.id, []).append((one.start, one.end))
        # The texts first: they say which document is gone.
        columns = {document: prompter.columns(self.catalogue.text(document), own) for document, own in pieces.items()}
        return PreparedKnowledge.join([self._prepared(document).take(own) for document, own in columns.items()])

    @property
    def embedder(self) -> Embedder:
        """Return what turns texts into vectors."""
        return self._embed or static_embedder()

    def close(self) -> None:
        """Close this thread's connection to the catalogue."""
        self.catalogue.close()

    def _add_file(self, path: Path, named: bool, known: dict[str, tuple[str, int, int]], added: Added) -> None:
        """Note one file's text, unless the file is as it was."""
        place = str(path)
        try:
            state = path.stat()
            if known.get(place, ("", -1, -1))[1:] == (state.st_size, state.st_mtime_ns):
                added.unchanged += 1
                added.ids.append(known[place][0])
                return
            text = read_document(path, any_kind=named)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            if named:
                raise
            added.failed.append((place, str(error)))
            return
        added.ids.append(self._note(text, path.name, place, state.st_size, state.st_mtime_ns))

    def _note(self, text: str, title: str, place: str, size: int = 0, changed: int = 0) -> str:
        """Put a text into the catalogue; returns its id."""
        document = document_id(text)
        passages = None if self.catalogue.holds(document) else self._index(title, text)
        left = self.catalogue.put(document, title, text, place, size, changed, passages)
        if left is None:  # removed between the two looks
            left = self.catalogue.put(document, title, text, place, size, changed, self._index(title, text))
        self._unlink(left or ())
        return document

    def _index(self, title: str, text: str) -> list[Indexed]:
        """Cut a text into passages, and return what each is found by."""
        passages = split(text, self._need_model().need_prompter().tokenizer)
        vectors = self.embedder([f"{title}. {one.heading} {text[one.start : one.end]}" for one in passages])
        # A document says what it is about where it begins, and not again: without that its first passage is found only.
        about = f"{title} {text[passages[0].start : passages[0].end]}" if passages else ""
        words = [" ".join(words_of(f"{about} {one.heading} {text[one.start : one.end]}")) for one in passages]
        return [
            Indexed(one.start, one.end, one.heading, own, vector.tobytes())
            for one, own, vector in zip(passages, words, vectors.astype(np.float16), strict=True)
        ]

    def _prepare(self, ids: Sequence[str], progress: Progress) -> list[str]:
        """Prepare what is missing, batch by batch, like lengths together."""
        model, bank = self._need_model(), self.bank
        wanted, known = set(ids), self.catalogue.entries(bank)
        missing = [entry for entry in known if entry.id in wanted and entry.slots is None]
        order, done = iter(sorted(missing, key=lambda entry: entry.characters)), 0
        while batch := list(islice(order, BATCH)):
            texts = [self.catalogue.text(entry.id) for entry in batch]
            for entry, prepared in zip(batch, model.prepare_many(texts, batch_size=BATCH), strict=True):
                self._keep(entry.id, bank, prepared)
            done += len(batch)
            progress("preparing", done, len(missing))
        return [entry.id for entry in missing]

    def _keep(self, document: str, bank: str, prepared: PreparedKnowledge) -> None:
        """Write a memory's file, then its row, unless another process was first or the document is gone."""
        content = pack(prepared, self.precision)
        file = f"memories/{bank}/{document[:16]}-{uuid.uuid4().hex[:8]}.safetensors"
        row = Prepared(
            document, bank, file, hashlib.sha256(content).hexdigest(), len(content), len(prepared), self.precision
        )
        # The file is written as the only writer, so that `verify` never takes it for one that nobody names.
        with self.catalogue.writing() as connection:
            if connection.execute("SELECT 1 FROM documents WHERE id = ?", (document,)).fetchone() is None:
                return
            ask = "SELECT 1 FROM memories WHERE document = ? AND bank = ?"
            if connection.execute(ask, (document, bank)).fetchone() is not None:
                return
            write_atomically(self.folder / file, content)
            values = (row.document, row.bank, row.file, row.sha256, row.bytes, row.slots, row.precision)
            connection.execute("INSERT INTO memories VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def _prepared(self, document: str) -> PreparedKnowledge:
        """Map one document's memory, or make it."""
        bank = self.bank
        for _ in range(2):
            rows = self.catalogue.prepared(bank, document)
            if not rows:
                self._prepare([document], lambda _what, _done, _all: None)
                rows = self.catalogue.prepared(bank, document)
            try:
                return unpack(self.folder / rows[0].file)
            except FileNotFoundError:
                continue  # removed and added again between the two looks
            except ValueError as error:
                raise ValueError(f"{error} Run `diekae knowledge verify --repair`, and it is prepared anew.") from error
        raise ValueError(
            f"the memory of document {document[:12]} is missing in {str(self.folder)!r}; run `diekae knowledge verify "
            "--repair`, and it is prepared anew."
        )

    def _unlink(self, files: Sequence[str]) -> None:
        for file in files:
            (self.folder / file).unlink(missing_ok=True)

    def _need_model(self) -> DiekaeModel:
        if self.model is None:
            raise ValueError("preparing needs a model; open the store with KnowledgeStore(folder, model).")
        return self.model
