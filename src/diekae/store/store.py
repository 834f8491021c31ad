"""The knowledge store: documents in a folder, each prepared once by a bank, looked up by name or searched by question.

The folder holds:
    catalogue.sqlite                           documents, their sources, and the index for search
    memories/BANK/D3/DOCUMENT-….safetensors    prepared knowledge; D3 is the beginning of the document's id

When `add` and `remove` return, their changes are on the disk: a power cut does not undo them.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from diekae.fields import check_choice
from diekae.files import FileState, as_path
from diekae.knowledge import PreparedKnowledge
from diekae.knowledge.codec import PRECISIONS
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.readers import printable, read_document
from diekae.store.catalogue import Catalogue, DocumentSource, StoredDocument, document_id
from diekae.store.embedders import EmbedderChoice, make_embedder
from diekae.store.intake import AddResult, check_name, expand, is_gone, settled_state, title_of
from diekae.store.layout import CATALOGUE
from diekae.store.prepared_folder import PreparedFolder
from diekae.store.search import FoundPassage, PassageSearch
from diekae.store.verify import Fault, find_faults

MOST_SOURCES = 10
"""Most files of one text that are checked for renames when one of them is added."""


class KnowledgeStore:
    """Documents on disk with their prepared knowledge, for any number of readers and writers at once.

    Example:
        >>> store = KnowledgeStore("knowledge", model)
        >>> store.add(Path("my-documents"))
    """

    def __init__(
        self,
        folder: str | Path,
        model: DiekaeModel | None = None,
        *,
        precision: str = "exact",
        embedder: EmbedderChoice = None,
        most_bytes: int = 4 * 10**9,
    ) -> None:
        """Open a store, or create it.

        Args:
            folder: The store's folder.
            model: Prepares documents; needed to add them and to :meth:`read` passages.
            precision: Format of newly prepared knowledge: ``exact``, ``bf16`` (half of fp32) or ``int8`` (a quarter).
            embedder: Name or folder of an encoder, such as ``sentence-transformers/all-MiniLM-L6-v2``, or a function
                from texts to vectors of length 1, so that a search also finds passages that share no word with the
                question; WordLlama's static embeddings if None. Always open a store with the same embedder.
            most_bytes: Most bytes of prepared knowledge that one call of :meth:`prepared` or :meth:`read` returns.
                While it joins documents, it needs about one and a half times as much RAM.

        Raises:
            ValueError: The precision is not known, the catalogue is damaged, or the embedder cannot be loaded.
            OSError: The folder cannot be written.
        """
        check_choice(f"precision={precision!r}", precision, PRECISIONS)
        self.folder, self.model, self.precision = as_path(folder), model, precision
        self.catalogue = Catalogue(self.folder / CATALOGUE)
        self.embedder = make_embedder(embedder, "cpu" if model is None else model.device)
        self._search = PassageSearch(self.catalogue, model, self.embedder)
        self._prepared_folder = PreparedFolder(self.folder, self.catalogue, model, precision, most_bytes)

    def __repr__(self) -> str:
        try:
            count = self.catalogue.documents.count()
        except (OSError, ValueError):
            return f"KnowledgeStore({str(self.folder)!r}, its catalogue cannot be read)"
        return f"KnowledgeStore({str(self.folder)!r}, {count} documents)"

    @property
    def bank(self) -> str:
        """Return the key of the model's bank and settings; without a model, the store's only key, or an empty text."""
        return self._prepared_folder.bank

    def add(
        self,
        documents: str | Path | Iterable[str | Path],
        *,
        prune: bool = False,
        prepare: bool = True,
        progress: Progress = silent,
    ) -> AddResult:
        """Add documents, and prepare those that this bank has not prepared yet.

        Unchanged files are not read again. If a file has changed, its old text is removed. After an interruption, the
        same call continues where it stopped.

        Args:
            documents: A text (``str``), a file or folder (``Path``), or several of these. A ``str`` is always a text:
                one that names an existing file or folder is refused.
            prune: Also remove documents whose files in the given folders no longer exist.
            prepare: Prepare now; otherwise each document is prepared when it is first read.
            progress: Called with the progress of reading and preparing.

        Raises:
            FileNotFoundError: A given file or folder does not exist.
            ValueError: A text is blank, names a file or holds a lone surrogate, a given file cannot be read, the memory
                is too small to prepare a document, or there is no model.
            OSError: The store cannot be written.
        """
        self._prepared_folder.require_model()
        table, result = self.catalogue.documents, AddResult()
        given = list(documents) if isinstance(documents, Iterable) and not isinstance(documents, str) else [documents]
        inputs = expand(given, table.paths_below, result)
        for number, (content, explicit) in enumerate(inputs):
            if isinstance(content, str):
                text = self._prepared_folder.check_size(content)
                result.ids.append(self._put(None, title_of(text), text, progress))
            else:
                self._add_file(content, explicit, result, progress)
            progress("reading", number + 1, len(inputs))
        result.gone = [path for path in result.gone if table.source(path) is not None]
        for source in map(table.source, result.gone if prune else ()):
            if source is not None:
                self._prepared_folder.delete(table.delete_source(source.path))
                self._follow_renames(source.document)
        result.ids = list(dict.fromkeys(result.ids))
        if prepare:
            result.prepared = self._prepared_folder.prepare_missing(result.ids, progress)
        return result

    def add_text(self, text: str, *, title: str) -> AddResult:
        """Add one text under a title, and prepare it; ValueError if the text is blank, or there is no model."""
        self._prepared_folder.require_model()
        if not text.strip():
            raise ValueError(f"the text of {title!r} is empty; give a document.")
        id = self._put(None, title, self._prepared_folder.check_size(text))
        return AddResult([id], self._prepared_folder.prepare_missing([id], silent))

    def forget_text(self, id: str) -> None:
        """Remove a document that was added as a text, unless a file holds the same text."""
        self._prepared_folder.delete(self.catalogue.documents.delete_source(id))

    def prepare_missing(self, progress: Progress = silent) -> list[str]:
        """Prepare all documents that this bank has not prepared yet; returns their ids."""
        return self._prepared_folder.prepare_missing(None, progress)

    def documents(self) -> list[StoredDocument]:
        """Return all documents, in the order they were added."""
        return self.catalogue.documents.select(self.bank)

    def iter_documents(self) -> Iterator[StoredDocument]:
        """Yield what :meth:`documents` returns, page by page, for large stores. The store may change meanwhile."""
        return self.catalogue.documents.iterate(self.bank)

    def remove(self, name: str) -> StoredDocument:
        """Remove a document, with its prepared knowledge of all banks.

        Args:
            name: Its id or the beginning of its id, a file that holds it, or its title.

        Raises:
            ValueError: No document, or several, have that name.
        """
        with self.catalogue.writing():  # nobody else can remove it between the look-up and the removal
            id = self.catalogue.documents.find(name)
            (document,) = self.catalogue.documents.select(self.bank, [id])
            files = self.catalogue.documents.delete(id)
        self._prepared_folder.delete(files)
        return document

    def verify(self, *, repair: bool = False, progress: Progress = silent) -> list[Fault]:
        """Compare the catalogue with the files, the texts with their ids, and the index with the texts.

        Args:
            repair: Delete files that are damaged or not in the catalogue, and rebuild the index of documents where it
                is damaged. Documents stay, and are prepared again when they are next read.
            progress: Called for each file and each document.
        """
        return find_faults(self.folder, self.catalogue, self._search.index, repair=repair, progress=progress)

    def prepared(self, *names: str) -> PreparedKnowledge:
        """Return the prepared knowledge of a document, or of several together, for ``model.generate(knowledge=…)``.

        Documents that this bank has not prepared yet are prepared now, and stored.

        Args:
            *names: Documents, named as for :meth:`remove`.

        Raises:
            ValueError: No name is given, or a name matches no document; a document is not prepared and there is no
                model; its file is damaged; or together they exceed `most_bytes`.
        """
        if not names:
            raise ValueError("no document is named; expected at least one id.")
        ids = [self.catalogue.documents.find(name) for name in names]
        return PreparedKnowledge.join(self.limited(map(self._prepared_folder.load, ids)))

    def limited(self, parts: Iterable[PreparedKnowledge]) -> list[PreparedKnowledge]:
        """Return what is not joined, such as ``map(store.prepared, ids)``; ValueError beyond `most_bytes` together."""
        return self._prepared_folder.limited(parts)

    def text(self, name: str) -> str:
        """Return a document's text; named as for :meth:`remove`."""
        with self.catalogue.reading():  # one state: nobody can remove it between the two
            return self.catalogue.documents.text(self.catalogue.documents.find(name))

    def search(self, question: str, k: int = 3, *, documents: Sequence[str] = ()) -> list[FoundPassage]:
        """Return the k passages that answer a question best, best first; none if the store is empty.

        A passage's score is its share of the best BM25 score, plus the cosine of its vector and the question's. With an
        encoder the best such sum in its document counts too, and words count less; see :mod:`diekae.store.search`.

        Args:
            question: The question.
            k: Most passages to return.
            documents: Search only these, named as for :meth:`remove`; all if empty.

        Raises:
            ValueError: k is not positive, a name matches no document, or the store was filled with another embedder.
        """
        if k < 1:
            raise ValueError(f"k={k} must be at least 1.")
        return self._search.search(question, k, documents)

    def read(self, passages: Sequence[FoundPassage]) -> PreparedKnowledge:
        """Return the prepared knowledge of these passages alone, for ``model.generate(knowledge=…)``.

        A document is prepared as a whole, so each passage was read with all the text before it.

        Raises:
            ValueError: No passage is given, its document is no longer in the store, or together they exceed
                `most_bytes`.
        """
        if not passages:
            raise ValueError("no passage is given; expected at least one, as search returns them.")
        model = self._prepared_folder.require_model()
        prompter = model.need_prompter()
        spans: dict[str, list[tuple[int, int]]] = {}
        for passage in passages:
            spans.setdefault(passage.id, []).append((passage.start, passage.end))
        # Texts are read before anything is loaded, so that a removed document raises the error of `text`.
        columns = {id: prompter.columns(self.catalogue.documents.text(id), spans[id]) for id in spans}
        loaded = (model.excerpt(self._prepared_folder.load(id), columns[id]) for id in columns)
        return PreparedKnowledge.join(self.limited(loaded))

    def close(self) -> None:
        """Close this thread's connection to the catalogue."""
        self.catalogue.close()

    def _add_file(self, path: Path, explicit: bool, result: AddResult, progress: Progress) -> None:
        """Add one file, unless it has not changed since it was added."""
        try:
            check_name(path)
            state = settled_state(path)
            source = self.catalogue.documents.source(str(path))
            if source is not None and source.state == state:
                result.unchanged += 1
                result.ids.append(source.document)
                return
            text = self._prepared_folder.check_size(read_document(path, any_kind=explicit))
        except (ValueError, OSError, ModuleNotFoundError) as error:
            if explicit:
                raise
            result.failed.append((printable(path), str(error)))
            return
        id = self._put((str(path), state), path.name, text, progress)
        self._follow_renames(id)
        result.ids.append(id)

    def _put(self, file: tuple[str, FileState] | None, title: str, text: str, progress: Progress = silent) -> str:
        """Put a text into the catalogue, with the file that holds it; returns its id.

        If the file held another text before, and nothing else holds that text, its prepared files are deleted.
        """
        id, table = document_id(text), self.catalogue.documents
        source = DocumentSource(id, id) if file is None else DocumentSource(file[0], id, file[1])
        # Passages are made outside the transaction, because that takes long, and only for a document that is new.
        passages = None if table.contains(id) else self._search.index(title, text, progress)
        unused_files = table.put(source, title, text, passages)
        if unused_files is None:  # another process removed the document between the two lines above
            unused_files = table.put(source, title, text, self._search.index(title, text))
        self._prepared_folder.delete(unused_files or ())
        return id

    def _follow_renames(self, document: str) -> None:
        """Forget a document's files that no longer exist, if another of its files does; its name becomes the title."""
        table = self.catalogue.documents
        with self.catalogue.writing():
            sources = table.sources_of(document, MOST_SOURCES + 1)
            present = [source for source in sources if not is_gone(source.path)]
            if not present or len(sources) > MOST_SOURCES or not all(source.is_file for source in sources):
                return
            for source in set(sources).difference(present):
                table.delete_source(source.path)
            names = [Path(source.path).name for source in present]
            if table.select(ids=[document])[0].title not in names:
                table.index_again(document, names[0], self._search.index(names[0], table.text(document)))
