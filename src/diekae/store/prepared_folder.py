"""The folder of the files of prepared knowledge: one file for each document and bank.

A file is written first, then its row in the catalogue. A kill between the two leaves a file without a row, which
`verify` removes, and never a row without its file. Each file has a name of its own, so a process that removes a
document cannot delete the file of a process that adds it again.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

from diekae.files import write_atomically
from diekae.fingerprint import fingerprint
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.store.catalogue import Catalogue, PreparedFile
from diekae.store.layout import PREPARED

BATCH = 16
"""Documents that are prepared together, and written before the next ones are begun."""
_REPAIR = "run `diekae knowledge verify --repair`, and it is prepared again."


class PreparedFolder:
    """Prepares documents with one bank, and keeps and loads what was prepared."""

    def __init__(self, folder: Path, catalogue: Catalogue, model: DiekaeModel | None, precision: str) -> None:
        """Use the files of a store; the arguments are those of :class:`diekae.store.KnowledgeStore`."""
        self._folder, self._catalogue, self._model, self._precision = folder, catalogue, model, precision

    def require_model(self) -> DiekaeModel:
        """Return the model.

        Raises:
            ValueError: The store was opened without one.
        """
        if self._model is None:
            raise ValueError("preparing needs a model; open the store with KnowledgeStore(folder, model).")
        return self._model

    @property
    def bank(self) -> str:
        """Return the key under which the bank's files are; without a model, that of the only bank, or an empty text."""
        if self._model is not None:
            return f"{self._model.bank.fingerprint()}-{self._settings_digest}"
        banks = self._catalogue.prepared_files.banks()
        return banks[0] if len(banks) == 1 else ""

    @cached_property
    def _settings_digest(self) -> str:
        """Return a digest of what prepared knowledge depends on, besides the text and the bank's weights."""
        model = self.require_model()
        config = model.config
        settings = (fingerprint(model.decoder), config.site, config.template, config.anchor, model.anchor)
        return hashlib.sha256(repr(settings).encode()).hexdigest()[:8]

    def prepare_missing(self, ids: Iterable[str], progress: Progress) -> list[str]:
        """Prepare those documents that this bank has not prepared yet, in batches of similar length.

        Returns:
            Their ids, in the order they were added to the store.
        """
        bank, wanted = self.bank, set(ids)
        documents = self._catalogue.documents.select(bank)
        missing = [document for document in documents if document.id in wanted and document.slots is None]
        by_length, done = iter(sorted(missing, key=lambda document: document.characters)), 0
        while batch := list(islice(by_length, BATCH)):
            texts = [self._catalogue.documents.text(document.id) for document in batch]
            all_prepared = self.require_model().prepare_many(texts, batch_size=BATCH)
            for document, prepared in zip(batch, all_prepared, strict=True):
                self._write(document.id, bank, prepared)
            done += len(batch)
            progress("preparing", done, len(missing))
        return [document.id for document in missing]

    def load(self, document: str) -> PreparedKnowledge:
        """Return a document's prepared knowledge, mapped from its file; prepare it now if it is missing.

        Raises:
            ValueError: It is not prepared and there is no model, or its file is damaged or missing.
        """
        bank = self.bank
        for _ in range(2):  # the second time, if the document was removed and added again meanwhile
            files = self._catalogue.prepared_files.select(bank, document)
            if not files:
                self.prepare_missing([document], silent)
                files = self._catalogue.prepared_files.select(bank, document)
            try:
                return PreparedKnowledge.load(self._folder / files[0].file)
            except FileNotFoundError:
                continue
            except ValueError as error:
                raise ValueError(f"{error} To mend it, {_REPAIR}") from error
        raise ValueError(f"the file of document {document[:12]} is missing in {str(self._folder)!r}; {_REPAIR}")

    def delete(self, files: Sequence[str]) -> None:
        """Delete files whose rows are gone, given by their paths in the store's folder."""
        for file in files:
            (self._folder / file).unlink(missing_ok=True)

    def _write(self, document: str, bank: str, prepared: PreparedKnowledge) -> None:
        """Write a file and its row, unless the document is gone or another process has prepared it."""
        content = prepared.to_bytes(self._precision)
        file = PreparedFile(
            document,
            bank,
            f"{PREPARED}/{bank}/{document[:16]}-{uuid.uuid4().hex[:8]}.safetensors",
            hashlib.sha256(content).hexdigest(),
            len(content),
            len(prepared),
            self._precision,
        )
        # The file is written as the only writer, so that `verify` never takes it for one without a row.
        with self._catalogue.writing():
            if not self._catalogue.documents.contains(document):
                return
            if self._catalogue.prepared_files.select(bank, document):
                return
            write_atomically(self._folder / file.file, content)
            self._catalogue.prepared_files.insert(file)
