"""The model: a frozen decoder with a bank of encoders, which reads prepared knowledge.

Shapes: B rows, L columns of the prompt.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from diekae.data.formats import Message, last_questions
from diekae.editor import Call
from diekae.fingerprint import check_whole
from diekae.inject.cache import cache_in
from diekae.inject.columns import anchored, guess_mask
from diekae.inject.contexts import Claim, HookContext, bare, check_claim
from diekae.inject.guidance import with_guidance
from diekae.inject.injection import Injection
from diekae.inject.slots import Watch
from diekae.knowledge import Document, Knowledge, PreparedKnowledge, Select, batch_knowledge, knowledge_of_rows
from diekae.model.arguments import check_embeddings, check_generation, check_input, check_mask, prompts_of
from diekae.model.columns import add_cached_columns, anchor_length, is_stepwise, replaced_anchors, unseen_columns
from diekae.model.generation import generate_texts
from diekae.model.preparing import KnowledgePreparer
from diekae.model.relevance import relevant


class DiekaeModel(KnowledgePreparer):
    """A frozen decoder with a bank of encoders, which takes knowledge by injection.

    :class:`BankedDecoder` creates, loads and saves it; :class:`KnowledgePreparer` prepares knowledge.

    Example:
        >>> model = DiekaeModel.exact(*load_decoder("smollm2"))
        >>> bridge = model.prepare("The Ondrel Bridge opened in 1932.")
        >>> model.chat("When did the Ondrel Bridge open?", knowledge=bridge)
    """

    def injected(
        self,
        knowledge: Knowledge,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        injection_mask: Tensor | None = None,
        scope: str | None = None,
    ) -> AbstractContextManager[object]:
        """Return a context manager: in its block, every forward pass of ``model.decoder`` in this thread reads K.

        A thread or task can be inside one such block at a time. If a generator is inside one, so is its caller, unless
        the generator is advanced in a context of its own.

        Args:
            knowledge: As for :meth:`generate`: a row reads those documents of its list that its prompt is about. But a
                text is read after the bank's anchor, as by :meth:`forward`. None leaves the decoder as it is.
            input_ids: The prompt, int64 [B, L].
            attention_mask: 0 at padding, [B, L].
            injection_mask: Columns that receive, bool [B, L]; all but padding and the anchor if None.
            scope: ``prompt`` or ``all``; the configuration's if None.

        Raises:
            ValueError: A mask has another shape than the prompt; or, when the block is entered, this thread is inside
                another one.
        """
        select = self._selector(lambda: prompts_of(input_ids, attention_mask))
        rows = self.prepare_rows(knowledge, len(input_ids), select=select)
        if all(row is None for row in rows):
            return HookContext(claim=Claim(self.decoder, held=True))
        return self._injection(rows, input_ids, attention_mask, injection_mask, scope).active(guard=True)

    def call_context(
        self,
        knowledge: Knowledge,
        input_ids: Tensor,
        mask: Tensor | None = None,
        injection_mask: Tensor | None = None,
        cached_length: int = 0,
        scope: str | None = None,
        watch: Watch | None = None,
    ) -> AbstractContextManager[object]:
        """Return the context of one call of the decoder, ``cached_length`` of whose columns are in a cache.

        Args:
            knowledge: See :data:`diekae.knowledge.Knowledge`.
            input_ids: Columns that are not in the cache, int64.
            mask: 0 at padding, over all columns, [B, L].
            injection_mask: Columns that receive, bool, new ones or all; all but padding and the anchor if None.
            cached_length: Number of columns in the cache.
            scope: ``prompt`` or ``all``; the configuration's if None.
            watch: Called with the attention that K's slots receive.

        Raises:
            ValueError: This thread is inside an `injected` block, or a mask has another shape than the prompt.
        """
        rows = [] if knowledge is None else self.prepare_rows(knowledge, input_ids.shape[0])
        return self._call_context(rows, input_ids, mask, injection_mask, cached_length, scope, watch)

    def _call_context(
        self,
        rows: Sequence[PreparedKnowledge | None],
        input_ids: Tensor,
        mask: Tensor | None,
        injection_mask: Tensor | None = None,
        cached_length: int = 0,
        scope: str | None = None,
        watch: Watch | None = None,
    ) -> AbstractContextManager[object]:
        """Return the context of :meth:`call_context`, given what each row knows."""
        check_claim(Claim(self.decoder))
        if all(row is None for row in rows):
            return bare()
        if cached_length:
            input_ids, injection_mask = add_cached_columns(input_ids, injection_mask, cached_length)
        return self._injection(rows, input_ids, mask, injection_mask, scope, cached_length, watch).active()

    def _injection(
        self,
        rows: Sequence[PreparedKnowledge | None],
        input_ids: Tensor,
        attention_mask: Tensor | None,
        injection_mask: Tensor | None,
        scope: str | None = None,
        cached_length: int = 0,
        watch: Watch | None = None,
    ) -> Injection:
        """Return the injection of one call, of whose columns ``cached_length`` are in a cache."""
        check_whole(self.decoder, self.bank)
        check_mask(attention_mask, "attention_mask", input_ids)
        check_mask(injection_mask, "injection_mask", input_ids)
        shared, by_attention = self.config.anchor == "shared", self.attached.by_attention
        has_knowledge = torch.tensor([row is not None for row in rows], device=self.device)
        valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        hidden = torch.zeros_like(valid)
        if by_attention and shared:
            hidden = replaced_anchors(rows, input_ids, valid, cached_length)
        receives = valid if injection_mask is None else injection_mask.bool()
        if injection_mask is None and shared:
            receives = valid & ~(hidden if by_attention else anchored(input_ids, valid, self.anchor))
        later = has_knowledge & ((scope or self.config.scope) == "all")
        receives = receives & has_knowledge[:, None]
        return Injection(self.attached, batch_knowledge(rows), receives, valid, later, hidden, watch)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        knowledge: Knowledge = None,
        injection_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the decoder over x with knowledge injected.

        Args:
            input_ids: int64 [B, L]; with ``cache`` only the new columns, all of which receive.
            attention_mask: 0 at padding, [B, L], or over cached and new columns.
            knowledge: See :data:`diekae.knowledge.Knowledge`. A text is read after the bank's anchor; for x in another
                format, prepare it: ``prepare(text, format=…)``. All documents of a row's list are read together.
            injection_mask: Columns that receive, bool [B, L].
            **kwargs: Arguments of the decoder; ``inputs_embeds`` [B, L, V] are read in place of the tokens' own.

        Returns:
            The decoder's output, with ``logits`` [B, L, vocabulary].

        Raises:
            ValueError: x is empty or exceeds the decoder's window.
        """
        check_input(self.decoder, input_ids, kwargs)
        check_embeddings(kwargs.get("inputs_embeds"), input_ids)
        read = {} if kwargs.get("inputs_embeds") is not None else {"input_ids": input_ids}
        cache = cache_in(kwargs)
        cached_length = int(cache.get_seq_length()) if cache is not None else 0
        rows = self.prepare_rows(knowledge, len(input_ids))
        with self._edited(rows, input_ids, attention_mask, cache if cached_length else None) as call:
            with self._call_context(call.knowledge, input_ids, attention_mask, injection_mask, cached_length):
                return call.keep(self.decoder(**read, attention_mask=attention_mask, **kwargs))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def generate(self, input_ids: Tensor | None = None, *, knowledge: Knowledge = None, **kwargs: Any) -> Any:
        """Generate with knowledge injected, by the decoder's own ``generate``.

        Args:
            input_ids: The prompt, int64 [B, L], padded on the left.
            knowledge: See :data:`diekae.knowledge.Knowledge`. A text is read after the anchor of the prompt, whatever
                its format and system prompt are. A row reads those documents of its list that its prompt is about, or
                none: the decoder reads the prompt once behind each (:mod:`diekae.model.relevance`). To read several
                together whatever the prompt is, join them: :meth:`PreparedKnowledge.join`.
            **kwargs: Options of the decoder's ``generate``: ``max_new_tokens``, ``do_sample``, ``streamer``, …

        Raises:
            ValueError: x is empty or exceeds the decoder's window; or an option is not supported with knowledge, and a
                row has some (:func:`diekae.model.arguments.check_generation`).
        """
        if input_ids is None:
            if knowledge is not None or self.editor is not None:
                raise ValueError("generate needs input_ids; tokenize the input first, as with model.tokenize(text).")
            check_claim(Claim(self.decoder))
            with bare():
                return self.decoder.generate(**kwargs)  # type: ignore[operator]
        check_input(self.decoder, input_ids, kwargs)
        given_mask = kwargs.pop("attention_mask", None)
        mask = given_mask
        if mask is None:
            mask = guess_mask(input_ids, self.decoder.generation_config, kwargs.get("pad_token_id"))

        def prompts() -> list[tuple[int, ...]]:
            check_generation(self.decoder, input_ids, mask, kwargs)  # before the decoder runs
            return prompts_of(input_ids, mask)

        rows = self.prepare_rows(
            knowledge, len(input_ids), lambda: prompts_of(input_ids, mask), self._selector(prompts)
        )
        with self._edited(rows, input_ids, mask, None) as call:
            rows = call.knowledge
            if all(row is None for row in rows):  # the options are the decoder's own
                with self._call_context([], input_ids, None):
                    output = self.decoder.generate(input_ids=input_ids, attention_mask=given_mask, **kwargs)  # type: ignore[operator]
                    return call.keep(output)
            check_generation(self.decoder, input_ids, mask, kwargs)
            cache = self.unseen_anchor(rows, input_ids, mask) if is_stepwise(self.decoder, kwargs) else None
            kwargs = with_guidance(self.decoder, kwargs)
            kwargs = {"cache": cache, **kwargs} if cache is not None else kwargs
            with self._call_context(rows, input_ids, mask):
                return call.keep(self.decoder.generate(input_ids=input_ids, attention_mask=mask, **kwargs))  # type: ignore[operator]

    def unseen_anchor(
        self, rows: Sequence[PreparedKnowledge | None], input_ids: Tensor, mask: Tensor | None = None
    ) -> Cache | None:
        """Return a cache that stands for the anchor of x [B, L], so that it need not be read; None if it must.

        The bank's layers see the anchor among K's slots, so there the cache holds zeros; in other layers it holds what
        was kept when K was prepared. It is of use to this call alone.
        """
        if not self.attached.by_attention or (self.config.anchor, self.config.scope) != ("shared", "all"):
            return None
        length = anchor_length(rows, input_ids, mask)
        known = [row for row in rows if row is not None]
        return unseen_columns(self.decoder, self.layers, known, length) if length else None

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        knowledge: Document | Sequence[Document] | None = None,
        **kwargs: Any,
    ) -> str:
        """Answer the last turn of a chat; the decoder reads the knowledge before all turns.

        Args:
            messages: Turns of user and assistant, a system prompt first if any; or one question.
            knowledge: A document; or several. The decoder reads those that the user's last two questions are about, or
                none, as in :meth:`generate`. Prepared knowledge must have been prepared for the same system prompt:
                ``DiekaeModel.exact(…, system=…)``.
            **kwargs: Options of the decoder's ``generate``; by default greedy, with at most 256 tokens.

        Raises:
            ValueError: The turns do not alternate, or the tokenizer has no chat template.
        """
        prompter = self.need_prompter()
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        anchor, rest = prompter.chat(turns)
        ids = torch.tensor([anchor + rest], device=self.device)

        prepared = None
        if knowledge is not None:
            row = list(knowledge) if isinstance(knowledge, list | tuple) else knowledge
            bank = self.bank.fingerprint()
            prepared = knowledge_of_rows(
                [row],
                1,
                lambda text, _: self.prepare_behind(anchor, text),
                bank,
                self.device,
                self._selector(lambda: [anchor + prompter.chat(last_questions(turns))[1]]),
            )
        return generate_texts(self, ids, torch.ones_like(ids), prepared, **{"max_new_tokens": 256, **kwargs})[0][0]

    def can_generate(self) -> bool:
        """Refuse what ``pipeline`` asks of a model that it takes for one of Transformers' own, by a TypeError."""
        raise TypeError(
            "a DiekaeModel is not a model of Transformers. Give the pipeline model.decoder, and call it inside a block "
            "that injects: with model.injected(knowledge, input_ids): pipe(text)."
        )

    def _selector(self, prompts: Callable[[], Sequence[tuple[int, ...]]]) -> Select:
        """Return a function that selects the documents that a row's prompt is about; prompts are asked for once."""
        prompts = cache(prompts)
        return lambda documents, row: [documents[number] for number in relevant(self, prompts()[row], documents)]

    def _edited(
        self, rows: Sequence[PreparedKnowledge | None], input_ids: Tensor, mask: Tensor | None, cache: Any
    ) -> Any:
        """Return the context of one call, to whose knowledge the edits add theirs."""
        return self.editor.around(rows, input_ids, mask, cache) if self.editor else nullcontext(Call(rows))
