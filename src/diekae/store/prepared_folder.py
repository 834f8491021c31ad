"""The folder of the files of prepared knowledge: one file for each document and bank.

A file is written first, then its row in the catalogue. A kill between the two leaves a file without a row, which
`verify` removes, and never a row without its file. Each file has a name of its own, so a process that removes a
document cannot delete the file of a process that adds it again.
"""

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from diekae.files import write_atomically
from diekae.fingerprint import fingerprint
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.store.catalogue import Catalogue, PreparedFile
from diekae.store.layout import path_in_store, prepared_path

BATCH = 16
"""Most documents that are prepared together, and written before the next ones are begun."""
CHARACTERS = 200_000
"""Most characters of these documents, each counted as long as the longest, because shorter ones are padded."""
LONG = 100_000
"""Characters from which on a text is checked for its size before it is kept."""
_REPAIR = "run `diekae knowledge verify --repair`, and it is prepared again."


class PreparedFolder:
    """Prepares documents with one bank, and stores and loads their prepared knowledge."""

    def __init__(
        self, folder: Path, catalogue: Catalogue, model: DiekaeModel | None, precision: str, most_bytes: int
    ) -> None:
        """Use the files of a store; arguments and errors are those of :class:`diekae.store.KnowledgeStore`."""
        if not most_bytes > 0:  # NaN is not either
            raise ValueError(f"most_bytes={most_bytes!r} must be at least 1.")
        self._folder, self._catalogue, self._model = folder, catalogue, model
        self._precision, self._most_bytes = precision, most_bytes

    def require_model(self) -> DiekaeModel:
        """Return the model; a ValueError if the store was opened without one."""
        if self._model is None:
            raise ValueError("preparing needs a model; open the store with KnowledgeStore(folder, model).")
        return self._model

    @property
    def bank(self) -> str:
        """Return the key of the bank's files; without a model, the only key in the store, or an empty text."""
        if self._model is not None:
            return f"{self._model.bank.fingerprint(look=True)}-{self._settings_digest}"
        return self._catalogue.prepared_files.only_bank()

    @cached_property
    def _settings_digest(self) -> str:
        """Return a digest of what prepared knowledge depends on, besides the text and the bank's weights."""
        model = self.require_model()
        config = model.config
        settings = (fingerprint(model.decoder), config.site, config.template, config.anchor, model.anchor)
        return hashlib.sha256(repr(settings).encode()).hexdigest()[:8]

    def check_size(self, text: str) -> str:
        """Return a text; a ValueError if there is not enough memory to prepare it, before it is kept."""
        if len(text) >= LONG:
            self.require_model().check_memory(text)
        return text

    def prepare_missing(self, ids: Sequence[str] | None, progress: Progress) -> list[str]:
        """Prepare the documents, of these ids or all, that this bank has not prepared yet; return their ids.

        Documents of similar length share a batch. Progress is reported after each batch, and for parts of long
        documents.
        """
        bank, done = self.bank, 0
        lengths = self._catalogue.documents.unprepared(bank, ids)
        by_length = sorted(lengths, key=lengths.__getitem__)
        while done < len(by_length):
            batch = by_length[done : done + batch_size([lengths[id] for id in by_length[done : done + BATCH]])]
            with self._catalogue.reading():  # without documents that were removed meanwhile
                documents = self._catalogue.documents
                texts = {id: documents.text(id) for id in batch if documents.contains(id)}
            if texts:
                all_prepared = self.require_model().prepare_many(
                    list(texts.values()), batch_size=BATCH, progress=progress
                )
                for id, prepared in zip(texts, all_prepared, strict=True):
                    self._write(id, bank, prepared)
            done += len(batch)
            progress("preparing", done, len(lengths))
        return list(lengths)

    def load(self, document: str) -> PreparedKnowledge:
        """Return a document's prepared knowledge, mapped from its file; prepare it now if it is missing."""
        bank = self.bank
        for _ in range(2):  # the second time, if the document was removed and added again meanwhile
            file = self._catalogue.prepared_files.select(bank, document)
            if file is None:
                self.prepare_missing([document], silent)
                file = self._catalogue.prepared_files.select(bank, document)
            if file is None:  # removed meanwhile
                continue
            try:
                path = path_in_store(self._folder, file.file)
                return PreparedKnowledge.load(path, sha256=file.sha256)
            except FileNotFoundError:
                continue
            except ValueError as error:
                raise ValueError(f"{error} To mend it, {_REPAIR}") from error
        self._catalogue.documents.text(document)  # raises if the document has been removed
        raise ValueError(f"the file of document {document[:12]} is missing in {str(self._folder)!r}; {_REPAIR}")

    def limited(self, parts: Iterable[PreparedKnowledge]) -> list[PreparedKnowledge]:
        """Return prepared knowledge that is loaded part by part; ValueError once it is more than `most_bytes`."""
        loaded = list[PreparedKnowledge]()
        for part in parts:
            loaded.append(part)
            if sum(prepared.nbytes for prepared in loaded) > self._most_bytes:
                raise ValueError(
                    f"the documents to read have more than most_bytes={self._most_bytes:,} bytes with document number "
                    f"{len(loaded)}; read fewer documents at once, or only passages of them (search, then read), or "
                    "open the store with a larger most_bytes."
                )
        return loaded

    def delete(self, files: Sequence[str]) -> None:
        """Delete files that have no row any more. Paths that are not those of prepared files are ignored."""
        for file in files:
            with suppress(ValueError):  # a store from elsewhere may name any path
                path_in_store(self._folder, file).unlink(missing_ok=True)

    def _write(self, document: str, bank: str, prepared: PreparedKnowledge) -> None:
        """Write a file and its row, unless the document is gone or another process has prepared it."""
        content = prepared.to_bytes(self._precision)
        file = PreparedFile(
            document,
            bank,
            prepared_path(bank, document, uuid.uuid4().hex[:8]),
            hashlib.sha256(content).hexdigest(),
            len(content),
            len(prepared),
            self._precision,
        )
        path = path_in_store(self._folder, file.file)
        try:
            # The file is written as the only writer, so that `verify` never takes it for one without a row.
            with self._catalogue.writing():
                if not self._catalogue.documents.contains(document):
                    return
                if self._catalogue.prepared_files.select(bank, document):
                    return
                write_atomically(path, content)
                self._catalogue.prepared_files.insert(file)
        except BaseException:  # a full disk, or Ctrl+C: without its row, nobody would ever read or delete the file
            if not self._catalogue.prepared_files.contains(file):
                path.unlink(missing_ok=True)
            raise


def batch_size(lengths: Sequence[int]) -> int:
    """Return how many of the first documents, sorted by their lengths, are prepared together; at least one."""
    return max((size for size, length in enumerate(lengths, 1) if size * length <= CHARACTERS), default=1)
