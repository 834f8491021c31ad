"""Uploaded files become documents of the knowledge store, one after the other, in the background."""

import logging
import sqlite3
import threading
import time
from collections import deque
from contextlib import suppress

from diekae.readers import read_document
from diekae.serve.library import Library, StoredFile
from diekae.serve.metrics import Metrics
from diekae.store import KnowledgeStore

logger = logging.getLogger(__name__)


class Intake:
    """A thread that reads, indexes and prepares uploaded files; and the deletion of files, which must not cross it."""

    def __init__(self, library: Library, store: KnowledgeStore, metrics: Metrics, most: int) -> None:
        """Start, with the files that an earlier server has left to do; ``most`` is the most tokens of a document."""
        self.library, self.store, self.metrics, self.most = library, store, metrics, most
        self._files: deque[StoredFile] = deque(library.unprepared({entry.id for entry in store.iter_documents()}))
        self._changed = threading.Condition()
        self._stopping = False
        self._settling = threading.Lock()
        """Held while it is decided whether a document belongs to a file."""
        self._thread = threading.Thread(target=self._run, name="diekae-intake", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Return how many files wait."""
        return len(self._files)

    def before(self, file: StoredFile) -> int:
        """Return how many files are prepared before this one; 0 if it is being prepared."""
        with self._changed:
            return next((number for number, other in enumerate(self._files, 1) if other.id == file.id), 0)

    def put(self, file: StoredFile) -> None:
        """Queue a file whose row is committed."""
        with self._changed:
            self._files.append(file)
            self._changed.notify_all()

    def delete(self, file: StoredFile) -> None:
        """Delete a file, and its document unless another file or the command line has added the same text."""
        with self._settling:
            document = self.library.delete(file)
            if document is not None and document not in self.library.documents():
                self.store.forget_text(document)

    def stop(self, timeout: float | None = None) -> bool:
        """Finish the file that is being read, and tell whether the thread has ended; the next server reads the others.

        After ``timeout`` seconds, the file that is being read is left to the next server too.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (file := self._next()) is not None:
            try:
                self._read(file)
            except Exception:
                logger.exception("file %s was not read", file.id)
                with suppress(sqlite3.Error):  # a full disk, perhaps: then the next server reads the file
                    self.library.settle(file.id, None, "the server failed to read this file; its log says why")
        self.store.close()

    def _next(self) -> StoredFile | None:
        with self._changed:
            self._changed.wait_for(lambda: self._files or self._stopping)
            return None if self._stopping else self._files.popleft()

    def _read(self, file: StoredFile) -> None:
        path, began = self.library.path(file), time.perf_counter()
        try:
            text = read_document(path, any_kind=True)
            self._check(text)
        except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
            # The path is the server's own affair.
            self.library.settle(file.id, None, str(error).replace(str(path), file.name))
            return
        while not self._settle(file, text):
            pass
        self.metrics.observe("prepare", time.perf_counter() - began)

    def _check(self, text: str) -> None:
        assert self.store.model is not None
        tokens = len(self.store.model.need_prompter().knowledge(text))
        if tokens > self.most:
            raise ValueError(f"the document has {tokens} tokens, of at most {self.most}; split it")

    def _settle(self, file: StoredFile, text: str) -> bool:
        """Add a text to the store; returns False if another file of the same text was deleted meanwhile."""
        added = self.store.add_text(text, title=file.name)
        (document,) = added.ids
        with self._settling:
            entries = self.store.catalogue.documents.select(self.store.bank, [document])
            if not entries:
                return False
            if added.prepared:
                self.metrics.prepared.inc(entries[0].slots or 0)
            if not self.library.settle(file.id, document, None) and document not in self.library.documents():
                self.store.forget_text(document)  # the file was deleted while it was read
        return True
