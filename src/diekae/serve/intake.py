"""Uploaded files become documents of the knowledge store, one after the other, in the background."""

from __future__ import annotations

import logging
import queue
import threading

from diekae.serve.library import Library, StoredFile
from diekae.store import KnowledgeStore
from diekae.store.readers import read_document

logger = logging.getLogger(__name__)


class Intake:
    """A thread that reads, indexes and prepares uploaded files."""

    def __init__(self, library: Library, store: KnowledgeStore) -> None:
        """Start, with the files that an earlier server left unread."""
        self.library, self.store = library, store
        self._files: queue.Queue[StoredFile | None] = queue.Queue()
        for file in library.pending():
            self._files.put(file)
        self._thread = threading.Thread(target=self._run, name="diekae-intake", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Return how many files wait."""
        return self._files.qsize()

    def put(self, file: StoredFile) -> None:
        """Queue a file whose row is committed."""
        self._files.put(file)

    def stop(self) -> None:
        """Finish the file that is being read, and end the thread; the others are read by the next server."""
        with self._files.mutex:
            self._files.queue.clear()
        self._files.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (file := self._files.get()) is not None:
            try:
                self._read(file)
            except Exception:  # noqa: BLE001 - the next file must be read whatever became of this one
                logger.exception("file %s was not read", file.id)
                self.library.settle(file.id, None, "the server failed to read this file")
        self.store.close()

    def _read(self, file: StoredFile) -> None:
        try:
            text = read_document(self.library.path(file), any_kind=True)
            (document,) = self.store.add_text(text, title=file.name).ids
        except (ValueError, OSError, ModuleNotFoundError) as error:
            # The path is the server's own affair.
            self.library.settle(file.id, None, str(error).replace(str(self.library.path(file)), file.name))
            return
        if not self.library.settle(file.id, document, None):
            self._forget(document)

    def _forget(self, document: str) -> None:
        """Remove the document of a file that was deleted while it was read, unless another file is the same."""
        if document not in self.library.documents():
            self.store.remove(document)
