"""The model: a frozen decoder that takes knowledge by injection.

Shapes: N encoders, B rows, L columns of the prompt, K knowledge tokens, W decoder width.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.checkpoint import load_bank, save_bank
from diekae.config import DiekaeConfig, resolve_layers
from diekae.data.prompt import Message, Prompt, Prompter, pad_left
from diekae.editor import Call, Editor
from diekae.encoders import encoder_class
from diekae.encoders.bank import Bank
from diekae.files import place_named
from diekae.fingerprint import check_whole, fingerprint, window
from diekae.inject.attached import Attached
from diekae.inject.attention import AttentionSite, check_positions, find_attention
from diekae.inject.columns import anchored, guess_mask
from diekae.inject.exactness import check_exact
from diekae.inject.guidance import with_guidance
from diekae.inject.hookpoints import find_blocks, find_hookpoints
from diekae.inject.injection import Injection, bare
from diekae.inject.slots import Watch
from diekae.knowledge import Document, Knowledge, PreparedKnowledge, batch_knowledge, rows_of
from diekae.moving import Beside
from diekae.prepare import read_documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class DiekaeModel(Beside):
    """A frozen decoder with a bank of encoders beside it.

    Only the bank's parameters are this module's own: ``parameters()``, ``state_dict()`` and an optimizer see nothing
    of the decoder, which is neither copied nor changed. ``to(device)`` moves both.
    """

    def __init__(
        self,
        decoder: PreTrainedModel,
        config: DiekaeConfig | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """Put an untrained bank beside a decoder; it starts as the identity.

        Args:
            decoder: Any ``*ForCausalLM``.
            config: What the bank is; the defaults if None.
            tokenizer: The decoder's; needed wherever texts are given instead of tokens.

        Raises:
            ValueError: The decoder's blocks cannot be found, or a layer does not exist.
            TypeError: The decoder is no loaded model.
        """
        super().__init__()
        _check_decoder(decoder)
        self.config = config or DiekaeConfig()
        self.tokenizer = tokenizer
        self._outside: dict[str, Any] = {"decoder": decoder}  # a dict hides it from nn.Module's registration
        self.editor: Editor | None = None
        self.layers = resolve_layers(self.config.layers, len(find_blocks(decoder)))
        self.points = find_hookpoints(decoder, self.layers, self.config.site)
        embedding_width = decoder.get_input_embeddings().weight.shape[1]  # type: ignore[index]
        width = decoder.config.get_text_config(decoder=True).hidden_size
        sites: dict[int, AttentionSite] = {}
        if encoder_class(self.config.encoder).reads == "attention":
            check_positions(decoder)
            every = check_exact(decoder, find_attention(decoder))
            sites = {layer: every[layer] for layer in self.layers}
            self.config = self.config.settled(_traits(list(sites.values())))
        self.bank = Bank(self.config.encoder, self.config.encoder_options, self.layers, int(embedding_width), width)
        self.bank.to(decoder.device)
        self.bank.decoder = fingerprint(decoder)
        self._outside["sites"] = sites
        self.prompter = (
            None
            if tokenizer is None
            else Prompter(tokenizer, self.config.template, self.config.format, self.config.system)
        )
        self.anchor = self.prompter.anchor() if self.prompter else ()

    @classmethod
    def exact(
        cls,
        decoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        layers: str | Sequence[int] = "all",
        **options: Any,
    ) -> DiekaeModel:
        """Read K exactly as with K in the prompt: no training, no data, any decoder with rotary positions.

        Args:
            decoder: Any ``*ForCausalLM``.
            tokenizer: Its tokenizer.
            layers: In which layers K is read; in fewer than ``all`` it takes less room and time, and answers worse.
            **options: Other fields of :class:`DiekaeConfig`, such as ``template``, ``system`` and ``format``, which is
                ``chat`` unless told where the tokenizer has a chat template.

        Raises:
            ValueError: The decoder cannot be read exactly; the message says why.
        """
        if tokenizer is not None and tokenizer.chat_template:
            options.setdefault("format", "chat")
        return cls(decoder, DiekaeConfig.preset("exact", layers=layers, **options), tokenizer)

    @property
    def attached(self) -> Attached:
        """Return the bank at its places in the decoder."""
        return Attached(self.decoder, self.bank, self.points, self._outside["sites"])

    @property
    def decoder(self) -> PreTrainedModel:
        """Return the frozen decoder."""
        decoder: PreTrainedModel = self._outside["decoder"]
        return decoder

    @property
    def device(self) -> torch.device:
        """Return the device that inputs belong on."""
        return self.decoder.device

    def need_prompter(self) -> Prompter:
        """Return what turns texts into tokens.

        Raises:
            ValueError: The model has no tokenizer.
        """
        if self.prompter is None:
            raise ValueError("texts need a tokenizer; build the model with DiekaeModel(decoder, config, tokenizer=…).")
        return self.prompter

    def tokenize(self, texts: str | Sequence[str], format: str | None = None) -> dict[str, Tensor]:
        """Turn inputs into ``input_ids`` and ``attention_mask`` [B, L], anchor first, padded on the left.

        Args:
            texts: Questions or beginnings of text.
            format: ``plain``, ``qa`` or ``chat``; the configuration's if None.

        Raises:
            ValueError: An input is blank, there is none, or there is no tokenizer.
            TypeError: Something is no text.
        """
        prompter = self.need_prompter()
        anchor = self._anchor_of(format)
        inputs = _texts(texts, "texts", "a question, or a list of at least one")
        if not inputs:
            raise ValueError(f"texts is empty ({texts!r}); give a question, or a list of at least one.")
        rows = [anchor + prompter.input(text, format) for text in inputs]
        ids, mask = pad_left(rows, prompter.tokenizer.pad_token_id, self.device)
        return {"input_ids": ids, "attention_mask": mask}

    def prepare(
        self, knowledge: str | Sequence[str], *, format: str | None = None, chunk_size: int | None = None
    ) -> PreparedKnowledge:
        """Read knowledge once, independent of any input.

        Args:
            knowledge: A document, or several, which are read apart and used together.
            format: Format of the inputs it is for, whose anchor it is read behind; the bank's own if None. What was
                read for another format serves chats too, but stands before the system prompt then.
            chunk_size: Tokens of K read at once, to bound memory; the result is the same up to the decoder's window.
                A longer document is cut into windows, each read on its own after the anchor.

        Raises:
            ValueError: A document is empty or a file's name, the chunk is not positive, or there is no tokenizer.
            TypeError: Something is no text.
        """
        documents = [_text(text) for text in _texts(knowledge, "knowledge", "a document, or a list of documents")]
        if not documents:
            raise ValueError("knowledge is an empty list; give at least one document, or None for no knowledge.")
        return PreparedKnowledge.join(self.prepare_many(documents, batch_size=1, format=format, chunk_size=chunk_size))

    def prepare_many(
        self,
        documents: Sequence[str],
        *,
        batch_size: int = 16,
        format: str | None = None,
        chunk_size: int | None = None,
    ) -> list[PreparedKnowledge]:
        """Read documents apart, several at once, and return the memory of each.

        Args:
            documents: Texts, in any order.
            batch_size: Documents read at once; those of like length go together.
            format: As in :meth:`prepare`.
            chunk_size: As in :meth:`prepare`.

        Raises:
            ValueError: A document is empty, a size is not positive, or there is no tokenizer.
            TypeError: Something is no text.
        """
        documents = _texts(documents, "documents", "a list of documents")
        for name, size in (("batch_size", batch_size), ("chunk_size", chunk_size)):
            if size is not None and size < 1:
                raise ValueError(f"{name}={size} must be at least 1.")
        prompter = self.need_prompter()
        ids = [prompter.knowledge(text) for text in documents]
        return read_documents(
            self.attached,
            self._anchor_of(format),
            ids,
            own_anchor=self.config.anchor == "own",
            batch_size=batch_size,
            chunk_size=chunk_size,
        )

    def _anchor_of(self, format: str | None) -> tuple[int, ...]:
        """Return the anchor of a format; the bank's own if None."""
        return self.anchor if format in (None, self.config.format) else self.need_prompter().anchor(format)

    def prepare_prompts(self, prompts: Sequence[Prompt], *, batch_size: int = 16) -> list[PreparedKnowledge]:
        """Read the knowledge of laid-out examples, each distinct one once; of none at all a bank makes E(_, x)."""
        wanted = list(dict.fromkeys((prompt.anchor, prompt.knowledge) for prompt in prompts))
        ready: dict[Any, PreparedKnowledge] = {}
        for anchor in dict.fromkeys(anchor for anchor, _ in wanted):
            ids = [knowledge for own, knowledge in wanted if own == anchor]
            read = read_documents(
                self.attached, anchor, ids, own_anchor=self.config.anchor == "own", batch_size=batch_size
            )
            ready |= {(anchor, knowledge): prepared for knowledge, prepared in zip(ids, read, strict=True)}
        return [ready[prompt.anchor, prompt.knowledge] for prompt in prompts]

    def prepare_rows(self, knowledge: Knowledge, rows: int) -> list[PreparedKnowledge | None]:
        """Return one memory, or None, for each row; see :func:`diekae.knowledge.rows_of`."""
        return rows_of(knowledge, rows, self.prepare, self.bank.fingerprint(), self.device)

    @contextmanager
    def injected(
        self,
        knowledge: Knowledge,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        injection_mask: Tensor | None = None,
        scope: str | None = None,
    ) -> Iterator[None]:
        """Inject into every forward of the decoder that this thread makes inside the block.

        Args:
            knowledge: See :data:`Knowledge`; None leaves the decoder alone.
            input_ids: The prompt, [B, L].
            attention_mask: 0 at padding, [B, L].
            injection_mask: Columns that may receive, bool [B, L]; by default all but padding and the anchor.
            scope: ``prompt`` or ``all``; the configuration's if None.
        """
        rows = self.prepare_rows(knowledge, input_ids.shape[0])
        if all(row is None for row in rows):
            yield
            return
        with self._injection(rows, input_ids, attention_mask, injection_mask, scope).active(guard=True):
            yield

    def _injection(
        self,
        rows: Sequence[PreparedKnowledge | None],
        input_ids: Tensor,
        attention_mask: Tensor | None,
        injection_mask: Tensor | None,
        scope: str | None = None,
        done: int = 0,
        watch: Watch | None = None,
    ) -> Injection:
        """Return what is injected; arguments as for :meth:`injected`, ``done`` columns in a cache already."""
        check_whole(self.decoder, self.bank)
        active = torch.tensor([row is not None for row in rows], device=self.device)
        valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        hidden = torch.zeros_like(valid)
        if self.attached.by_attention and self.config.anchor == "shared":
            hidden = self._own_anchors(rows, input_ids, valid, done)
        receives = valid if injection_mask is None else injection_mask.bool()
        if injection_mask is None and self.config.anchor == "shared":
            receives = valid & ~(hidden if self.attached.by_attention else anchored(input_ids, valid, self.anchor))
        everywhere = (scope or self.config.scope) == "all"
        return Injection(
            self.attached,
            batch_knowledge(rows),
            receives & active[:, None],
            valid,
            active & everywhere,
            hidden,
            watch,
        )

    def _own_anchors(self, rows: Sequence[PreparedKnowledge | None], ids: Tensor, valid: Tensor, done: int) -> Tensor:
        """Find the columns of x that its knowledge's anchor takes the place of, bool [B, L].

        Raises:
            ValueError: An input does not begin with the anchor its knowledge was read behind.
        """
        place = valid.long().cumsum(1) - 1
        lengths = torch.tensor([[0 if row is None else len(row.anchor_ids)] for row in rows], device=ids.device)
        for number, row in enumerate(rows):
            # A single token holds the attention sink, whichever it is.
            if done or row is None or len(row.anchor_ids) < 2:
                continue
            begins = tuple(ids[number, valid[number]][: len(row.anchor_ids)].tolist())
            if begins != row.anchor_ids:
                raise ValueError(
                    f"input {number} begins with tokens {begins}, but its knowledge was read behind {row.anchor_ids}; "
                    "prepare and tokenize in the same format: model.prepare(text, format=…), "
                    "model.tokenize(question, format=…); of a chat also with the same system prompt."
                )
        return valid & (place < lengths)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        knowledge: Knowledge = None,
        injection_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the decoder over x with knowledge injected; all other arguments are the decoder's own.

        Args:
            input_ids: [B, L]; with ``past_key_values`` only the new columns, all of which receive.
            attention_mask: [B, L], or over past and new columns.
            knowledge: See :data:`Knowledge`.
            injection_mask: Columns that receive, bool [B, L].
            **kwargs: For the decoder.

        Returns:
            The decoder's output, ``logits`` [B, L, vocabulary] among it.

        Raises:
            ValueError: x is empty or passes the decoder's window.
        """
        self._check(input_ids, kwargs)
        past = kwargs.get("past_key_values")
        done = int(past.get_seq_length()) if past is not None else 0
        with self._edited(knowledge, input_ids, attention_mask, past if done else None) as call:
            with self.behind(call.knowledge, input_ids, attention_mask, injection_mask, done):
                return call.keep(self.decoder(input_ids=input_ids, attention_mask=attention_mask, **kwargs))

    def behind(
        self,
        knowledge: Knowledge,
        input_ids: Tensor,
        mask: Tensor | None = None,
        injection_mask: Tensor | None = None,
        done: int = 0,
        scope: str | None = None,
        watch: Watch | None = None,
    ) -> AbstractContextManager[None]:
        """Return the context of one call whose first ``done`` columns are in a cache; see :meth:`injected`.

        They do not matter any more, but x goes on behind them: K stands before all of x. ``watch`` is told how much
        attention K's slots are given.
        """
        if knowledge is None:
            return bare()
        rows = self.prepare_rows(knowledge, input_ids.shape[0])
        if all(row is None for row in rows):
            return bare()
        if done:
            before = input_ids.new_zeros((input_ids.shape[0], done))
            if injection_mask is None:
                injection_mask = torch.ones_like(input_ids, dtype=torch.bool)
            if injection_mask.shape[1] == input_ids.shape[1]:
                injection_mask = torch.cat([before.bool(), injection_mask.bool()], dim=1)
            input_ids = torch.cat([before, input_ids], dim=1)
        return self._injection(rows, input_ids, mask, injection_mask, scope, done, watch).active()

    def generate(self, input_ids: Tensor | None = None, *, knowledge: Knowledge = None, **kwargs: Any) -> Any:
        """Generate with knowledge injected: the decoder's own ``generate``, so every option of it holds.

        Args:
            input_ids: The prompt, [B, L], padded on the left.
            knowledge: See :data:`Knowledge`.
            **kwargs: For the decoder's ``generate``: ``max_new_tokens``, ``do_sample``, ``num_beams``, ``streamer``, …

        Raises:
            ValueError: x is missing, empty or passes the decoder's window.
        """
        if input_ids is None:
            raise ValueError("generate needs input_ids; tokenize the input first, as with model.tokenize(text).")
        self._check(input_ids, kwargs)
        mask = kwargs.pop("attention_mask", None)
        if mask is None:
            mask = guess_mask(input_ids, self.decoder.generation_config, kwargs.get("pad_token_id"))
        with self._edited(knowledge, input_ids, mask, None) as call, self.behind(call.knowledge, input_ids, mask):
            if call.knowledge is not None:  # compiled code does not see what is injected
                kwargs = {"disable_compile": True, **with_guidance(self.decoder, kwargs)}
            return self.decoder.generate(input_ids=input_ids, attention_mask=mask, **kwargs)  # type: ignore[operator]

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        knowledge: Document | Sequence[Document] | None = None,
        **kwargs: Any,
    ) -> str:
        """Answer the last turn of a chat, with knowledge injected once for all of its turns.

        Args:
            messages: Turns of user and assistant, a system prompt first if any; or one question.
            knowledge: A document, or several that are used together: texts, or what was prepared. K stands behind the
                system prompt, so what was prepared must have been for the same: ``DiekaeModel.exact(…, system=…)``.
            **kwargs: For the decoder's ``generate``; by default greedy, 256 tokens at most.

        Raises:
            ValueError: The turns are not user's and assistant's by turns, or the tokenizer has no chat template.
        """
        prompter = self.need_prompter()
        anchor, rest = prompter.chat([{"role": "user", "content": messages}] if isinstance(messages, str) else messages)
        ids = torch.tensor([anchor + rest], device=self.device)

        def prepare(text: str) -> PreparedKnowledge:
            own = self.config.anchor == "own"
            return read_documents(self.attached, anchor, [prompter.knowledge(_text(text))], own_anchor=own)[0]

        row = list(knowledge) if isinstance(knowledge, list | tuple) else knowledge
        known = None if row is None else rows_of([row], 1, prepare, self.bank.fingerprint(), self.device)
        options = {"max_new_tokens": 256, "do_sample": False, "pad_token_id": prompter.tokenizer.pad_token_id, **kwargs}
        made = self.generate(ids, attention_mask=torch.ones_like(ids), knowledge=known, **options)
        return str(prompter.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)).strip()

    def _edited(self, knowledge: Knowledge, input_ids: Tensor, mask: Tensor | None, cache: Any) -> Any:
        """Return the context of one call, as the edits want it."""
        return self.editor.around(knowledge, input_ids, mask, cache) if self.editor else nullcontext(Call(knowledge))

    def _check(self, input_ids: Tensor, options: Mapping[str, Any]) -> None:
        for name in options:
            if near := difflib.get_close_matches(name, ("knowledge", "injection_mask"), n=1, cutoff=0.8):
                raise TypeError(f"argument {name!r} is not known; did you mean {near[0]!r}?")
        if isinstance(input_ids, str):
            raise TypeError(
                f"input_ids is the text {input_ids!r}; expected a tensor [rows, tokens]. Tokenize it first: "
                f"model.generate(**model.tokenize({input_ids!r}), …)."
            )
        if not isinstance(input_ids, Tensor):
            raise TypeError(
                f"input_ids is {type(input_ids).__name__}; expected a tensor [rows, tokens]. What `tokenize` and "
                "`apply_chat_template(…, return_dict=True)` return is unpacked: model.generate(**inputs, …)."
            )
        if input_ids.is_floating_point():
            raise TypeError(f"input_ids is of type {input_ids.dtype}; expected token ids, as `tokenize` returns them.")
        if input_ids.ndim != 2 or input_ids.numel() == 0:
            raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}; expected [rows, tokens], both at least 1.")
        if input_ids.shape[1] > window(self.decoder):
            raise ValueError(
                f"the input has {input_ids.shape[1]} tokens, but the decoder's window is {window(self.decoder)}; "
                "shorten it, or give part of it as knowledge."
            )

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Save the bank alone: ``config.json`` and the weights as safetensors, in ``dtype`` or as they are."""
        save_bank(Path(folder), self.bank, self.config, self.decoder, self.anchor, dtype)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        decoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        check: bool = True,
        format: str | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> DiekaeModel:
        """Load a bank and put it beside its decoder.

        Args:
            folder: What :meth:`save_pretrained` wrote, or the name of a shipped bank (``smollm2``).
            decoder: The decoder the bank was made for; loaded by its name if None.
            tokenizer: The decoder's.
            check: Refuse a decoder whose fingerprint is not the one the bank was made for.
            format: Format of x, in place of the bank's own; ``auto`` is ``chat`` where the decoder has a chat template.
            dtype: Type that the decoder is loaded in, where it is loaded here; what is fast on the device if None.
            device: Where the decoder stands, where it is loaded here, and the bank with it; the CPU if None.

        Raises:
            FileNotFoundError: The folder holds no bank.
            ValueError: The bank is damaged, or was made for another decoder.
        """
        saved = load_bank(Path(folder))
        if decoder is None:
            from diekae.models import load_decoder  # the only reason to know of any particular model

            decoder, tokenizer = load_decoder(saved.decoder_name, dtype=dtype, device=device)
        if check and fingerprint(decoder) != saved.decoder_fingerprint:
            raise ValueError(
                f"the bank in {str(folder)!r} was made for decoder {saved.decoder_name!r} "
                f"({saved.decoder_fingerprint}), but this one is {decoder.config.name_or_path!r} "
                f"({fingerprint(decoder)}); load the right decoder, or pass check=False at your own risk."
            )
        if format == "auto":
            format = "chat" if tokenizer is not None and tokenizer.chat_template else None
        own = format in (None, saved.config.format)
        model = cls(decoder, saved.config if own else replace(saved.config, format=str(format)), tokenizer)
        model.anchor = saved.anchor if own else model.anchor
        model.bank.load_by_layer(saved.tensors)
        return model

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are trained, beside the decoder's."""
        own = sum(parameter.numel() for parameter in self.bank.parameters())
        all_of_it = own + sum(parameter.numel() for parameter in self.decoder.parameters())
        print(f"trainable params: {own:,} || all params: {all_of_it:,} || trainable%: {100 * own / all_of_it:.4f}")


def _traits(sites: Sequence[AttentionSite]) -> dict[str, int]:
    """Return the sizes of the attention of some layers, which must be alike.

    Raises:
        ValueError: They differ.
    """
    shapes = {(site.heads, site.key_shape, site.value_shape) for site in sites}
    if len(shapes) != 1:
        raise ValueError(
            f"encoder='attention' needs layers whose attention is alike, and these have {sorted(shapes)} (heads, keys, "
            "values); choose layers of one kind, or use encoder='reader'."
        )
    heads, (groups, key_size), (_, value_size) = shapes.pop()
    return {"heads": heads, "kv_heads": groups, "key_size": key_size, "value_size": value_size}


def _check_decoder(decoder: Any) -> None:
    """Refuse what is no loaded decoder.

    Raises:
        TypeError: It is a name, or something else.
    """
    if isinstance(decoder, str | Path):
        raise TypeError(
            f"decoder is the name {str(decoder)!r}; expected a loaded model. Load a bank with its decoder: "
            f"DiekaeModel.from_pretrained(bank); or a decoder: decoder, tokenizer = load_decoder({str(decoder)!r})."
        )
    if not isinstance(decoder, nn.Module) or not hasattr(decoder, "get_input_embeddings"):
        raise TypeError(
            f"decoder is of type {type(decoder).__name__}; expected a *ForCausalLM of Transformers, as in: "
            "decoder, tokenizer = load_decoder(name); DiekaeModel(decoder, config, tokenizer)."
        )


def _texts(given: Any, name: str, expected: str) -> list[str]:
    """Return a text or several as a list.

    Raises:
        TypeError: There is something else than texts.
    """
    texts = list(given) if isinstance(given, Iterable) and not isinstance(given, str | Mapping) else [given]
    for text in texts:
        if not isinstance(text, str):
            advice = "; read the file first: path.read_text()" if isinstance(text, Path) else ""
            what = "is" if text is given else "holds"
            raise TypeError(f"{name} {what} {text!r}; expected {expected}, each a str{advice}.")
    return texts


def _text(document: str) -> str:
    """Return a document, unless it is the name of a file that was meant to be read.

    Raises:
        ValueError: A file of that name exists.
    """
    if (path := place_named(document)) is not None and path.is_file():
        raise ValueError(
            f"knowledge is the text {document!r}, and a file of that name exists; give what stands in it: "
            f"Path({document!r}).read_text(), or let a KnowledgeStore read it. If these words are meant, end them with "
            "a line break."
        )
    return document
