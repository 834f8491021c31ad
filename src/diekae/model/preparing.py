"""A decoder with a bank that prepares knowledge.

Shapes: B rows, L columns of the prompt.
"""

from collections.abc import Callable, Sequence
from functools import cache

from torch import Tensor

from diekae.data.batch import pad_left
from diekae.data.prompt import Prompt, Prompter
from diekae.knowledge import Knowledge, PreparedKnowledge, Select, knowledge_of_rows
from diekae.model.arguments import as_texts, check_document
from diekae.model.banked import BankedDecoder
from diekae.prepare import check_memory, moved_up, read_documents, read_prompts
from diekae.progress import Progress, silent


class KnowledgePreparer(BankedDecoder):
    """A decoder with a bank that tokenizes inputs and prepares knowledge."""

    def need_prompter(self) -> Prompter:
        """Return the prompter, which turns texts into tokens; ValueError if the model has no tokenizer."""
        if self.prompter is None:
            raise ValueError("texts need a tokenizer; build the model with DiekaeModel(decoder, config, tokenizer=…).")
        return self.prompter

    def tokenize(self, texts: str | Sequence[str], format: str | None = None) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask`` [B, L] of inputs, anchor first, padded on the left.

        Args:
            texts: Questions or beginnings of text.
            format: ``plain``, ``qa`` or ``chat``; the configuration's if None.

        Raises:
            ValueError: There is no input, an input is blank, or the model has no tokenizer.
            TypeError: An input is not a text.
        """
        prompter = self.need_prompter()
        anchor = self._anchor_of(format)
        inputs = as_texts(texts, "texts", "a question, or a list of at least one")
        if not inputs:
            raise ValueError(f"texts is empty ({texts!r}); give a question, or a list of at least one.")
        rows = [anchor + prompter.input(text, format) for text in inputs]
        ids, mask = pad_left(rows, prompter.tokenizer.pad_token_id, self.device)
        return {"input_ids": ids, "attention_mask": mask}

    def prepare(
        self,
        knowledge: str | Sequence[str],
        *,
        format: str | None = None,
        chunk_size: int | None = None,
        progress: Progress = silent,
    ) -> PreparedKnowledge:
        """Prepare knowledge once, for any number of inputs.

        Args:
            knowledge: A document; or several, which are read separately and used together.
            format: Format of the inputs it is for, whose anchor it is read after; the configuration's if None.
                Knowledge for another format can be used in chats too, but then stands before the system prompt.
            chunk_size: Most tokens of K to read at once, to bound RAM; 2,048 if None. It does not change the result. A
                document longer than the decoder's window is divided into windows, each read after the anchor.
            progress: Called with the tokens that are read, if a document is read in chunks.

        Raises:
            ValueError: A document is blank or the name of a file, the chunk size is not positive, the memory is too
                small for what would be prepared, or the model has no tokenizer.
            TypeError: A document is not a text.
        """
        documents = as_texts(knowledge, "knowledge", "a document, or a list of documents")
        if not documents:
            raise ValueError("knowledge is an empty list; give at least one document, or None for no knowledge.")
        for text in documents:
            check_document(text)
        return PreparedKnowledge.join(
            self.prepare_many(documents, batch_size=1, format=format, chunk_size=chunk_size, progress=progress)
        )

    def prepare_many(
        self,
        documents: Sequence[str],
        *,
        batch_size: int = 16,
        format: str | None = None,
        chunk_size: int | None = None,
        progress: Progress = silent,
    ) -> list[PreparedKnowledge]:
        """Prepare documents separately, reading several at once.

        Args:
            documents: Texts, in any order.
            batch_size: Documents to read at once; documents of similar length are read together.
            format: As for :meth:`prepare`.
            chunk_size: As for :meth:`prepare`.
            progress: As for :meth:`prepare`.

        Raises:
            ValueError: A document is blank, a size is not positive, the memory is too small for what would be prepared,
                or the model has no tokenizer.
            TypeError: A document is not a text.
        """
        documents = as_texts(documents, "documents", "a list of documents")
        for name, size in (("batch_size", batch_size), ("chunk_size", chunk_size)):
            if size is not None and not (isinstance(size, int) and size >= 1):
                raise ValueError(f"{name}={size!r} must be a whole number of at least 1.")
        prompter = self.need_prompter()
        ids = [prompter.knowledge(text) for text in documents]
        return read_documents(
            self.attached, self._anchor_of(format), ids, batch_size=batch_size, chunk_size=chunk_size, progress=progress
        )

    def check_memory(self, document: str) -> None:
        """Check that a document can be prepared in the memory that is free, before the decoder reads it.

        Raises:
            ValueError: It cannot; the message names its tokens, the bytes that they take, and those that are free.
        """
        check_memory(self.attached, self.anchor, len(self.need_prompter().knowledge(document)))

    def prepare_prompts(self, prompts: Sequence[Prompt]) -> list[PreparedKnowledge]:
        """Prepare the knowledge of tokenized examples, each distinct one once.

        Examples without knowledge are prepared too: what the bank makes of them is E(∅, x).
        """
        return read_prompts(self.attached, prompts, batch_size=16)

    def prepare_behind(self, anchor: tuple[int, ...], document: str) -> PreparedKnowledge:
        """Prepare a document for inputs that begin with an anchor; errors as for :meth:`prepare`."""
        ids = self.need_prompter().knowledge(check_document(document))
        return read_documents(self.attached, anchor, [ids])[0]

    def excerpt(self, prepared: PreparedKnowledge, columns: Sequence[int]) -> PreparedKnowledge:
        """Return only some slots of a document, as ``prepared.take`` does, so that no sliding window hides them.

        If a layer's window is too short for the document, the slots are read next to each other, up to where x begins.
        """
        return moved_up(self.attached, prepared.take(columns))

    def prepare_rows(
        self,
        knowledge: Knowledge,
        rows: int,
        inputs: Callable[[], Sequence[tuple[int, ...]]] | None = None,
        select: Select | None = None,
    ) -> list[PreparedKnowledge | None]:
        """Return prepared knowledge, or None, for each row; see :func:`diekae.knowledge.knowledge_of_rows`.

        ``inputs`` returns the tokens of the rows' inputs; a text is read after the anchor of its row's. Without it, all
        texts are read after the bank's.
        """
        if knowledge is None:
            return [None] * rows

        @cache
        def anchors() -> list[tuple[int, ...]]:
            return [self.anchor] * rows if inputs is None else self.anchors_of(inputs())

        behind = cache(self.prepare_behind)
        bank = self.bank.fingerprint()
        return knowledge_of_rows(
            knowledge, rows, lambda text, row: behind(anchors()[row], text), bank, self.device, select
        )

    def anchors_of(self, inputs: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Return the tokens that knowledge stands after in each input: its anchor, or its first token if it has none.

        The first token holds the attention sink, whichever token it is.
        """
        anchors = self.need_prompter().anchors_of(inputs)
        return [anchor or row[:1] or self.anchor for anchor, row in zip(anchors, inputs, strict=True)]

    def _anchor_of(self, format: str | None) -> tuple[int, ...]:
        """Return the anchor of a format; the bank's own if None."""
        return self.anchor if format in (None, self.config.format) else self.need_prompter().anchor(format)
