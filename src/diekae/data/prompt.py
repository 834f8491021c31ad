"""From examples to token ids: the layout of both runs, pure and with every length passed along.

    with knowledge      anchor  K  x  y          (anchor "own": anchor  K  anchor  x  y)
    without             anchor     x  y

Shapes: B rows, F columns of the run with knowledge, T columns of the run over x, K knowledge tokens.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from diekae.data.example import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMATS = ("plain", "qa", "chat")
"""Known texts around x and y."""
IGNORED = -100
"""Label of a position that is not scored."""


class Wrapping(NamedTuple):
    """The texts around x and y in one format."""

    anchor: str
    """What both runs begin with, before K."""
    before: str
    """Between K and x."""
    after: str
    """Between x and y."""
    end: str
    """After y."""


def wrapping(name: str, tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> Wrapping:
    """Return the texts that a format puts around x and y; ``system`` is the system prompt of ``chat``.

    Raises:
        ValueError: The format is unknown, or ``chat`` was asked of a tokenizer without a chat template.
    """
    bos = tokenizer.bos_token or tokenizer.eos_token or ""
    if name == "plain":
        return Wrapping(bos, "", " ", "")
    if name == "qa":
        return Wrapping(bos, "Question: ", "\nAnswer: ", "\n")
    if name != "chat":
        raise ValueError(f"format={name!r} is not known; choose one of {', '.join(FORMATS)}.")
    if not tokenizer.chat_template:
        raise ValueError(
            "format='chat' needs a tokenizer with a chat template, and this one has none; use 'plain' or 'qa'."
        )
    turns: list[Message] = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    anchor, after, end = _around(tokenizer, turns, system)
    return Wrapping(anchor, "", after, end.rstrip("\n"))


Message = Mapping[str, str]
"""One turn of a chat: ``role`` (system, user or assistant) and ``content``."""


def _around(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], system: str | None, **options: Any
) -> list[str]:
    """Return what the chat template puts before, between and behind the turns of user and assistant.

    A system prompt is part of what stands before the first: it is the application's word, not a user's.
    """
    given = [dict(turn) for turn in turns]
    if system is not None and (not given or given[0]["role"] != "system"):
        given.insert(0, {"role": "system", "content": system})
    marked = [
        turn if turn["role"] == "system" else {**turn, "content": f"\x02{number}\x03"}
        for number, turn in enumerate(given)
    ]
    text = str(tokenizer.apply_chat_template(marked, tokenize=False, **options))
    return re.split("\x02[0-9]+\x03", text)


def _spoken(messages: Sequence[Message]) -> list[Message]:
    """Return the turns of user and assistant.

    Raises:
        ValueError: They do not take turns, the last is no user's, or one is blank.
        TypeError: A turn is no mapping, or its content no text.
    """
    for turn in messages:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str):
            raise TypeError(f"a turn of the chat is {turn!r}; expected {{'role': 'user', 'content': 'a text'}}.")
    roles = [turn.get("role") for turn in messages]
    first = int(roles[:1] == ["system"])
    wanted = [("user", "assistant")[number % 2] for number in range(len(roles) - first)]
    if not wanted or roles[first:] != wanted or wanted[-1] != "user":
        raise ValueError(f"a chat's turns are {roles}; expected user and assistant by turns, the last a user's.")
    if any(not turn["content"].strip() for turn in messages):
        raise ValueError(f"a turn of the chat is blank: {[dict(turn) for turn in messages]!r}.")
    return list(messages[first:])


@dataclass(frozen=True, slots=True)
class Prompt:
    """One example in tokens, cut where the runs are joined."""

    anchor: tuple[int, ...]
    knowledge: tuple[int, ...]
    input: tuple[int, ...]
    target: tuple[int, ...]
    apart: tuple[tuple[int, ...], ...] = ()
    """The documents of K, each as it is prepared, where a bank reads them apart; D(K, x) always reads ``knowledge``."""

    @property
    def documents(self) -> tuple[tuple[int, ...], ...]:
        """Return what a bank reads, each document by itself."""
        return self.apart or (self.knowledge,)


class Prompter:
    """Turns examples into prompts; the parts are tokenized apart, so that x has the same tokens in both runs."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        default_format: str = "plain",
        system: str | None = None,
    ) -> None:
        """Remember how to tokenize.

        Args:
            tokenizer: The decoder's.
            template: Text around K with ``{knowledge}`` in it.
            default_format: Format of examples that name none.
            system: System prompt of chats that bring none; the template's own if None.
        """
        self.tokenizer, self.template = tokenizer, template
        self.default_format, self.system = default_format, system

    def _wrapping(self, format: str | None) -> Wrapping:
        return wrapping(format or self.default_format, self.tokenizer, self.system)

    def chat(self, messages: Sequence[Message]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the tokens of a chat's anchor, behind which K stands, and all others up to the answer.

        Args:
            messages: Turns of user and assistant by turns, the last a user's; a system prompt may come first.

        Raises:
            ValueError: The turns are not so, one is blank, or the tokenizer has no chat template.
            TypeError: A turn is no mapping, or its content no text.
        """
        wrapping("chat", self.tokenizer)  # says what is missing
        spoken = _spoken(messages)
        around = _around(self.tokenizer, messages, self.system, add_generation_prompt=True)
        found: list[int] = []
        for turn, after in zip(spoken, around[1:], strict=True):
            found += [*self._ids("", turn["content"], ""), *self._own(after)]
        return self._own(around[0]) or (0,), tuple(found)

    def anchor(self, format: str | None = None) -> tuple[int, ...]:
        """Return the tokens both runs begin with in a format; never empty, for they hold the attention sink."""
        text = self._wrapping(format).anchor
        ids = self._own(text) if text else ()
        return ids or (0,)

    def knowledge(self, text: str) -> tuple[int, ...]:
        """Return the tokens of one document in its template.

        Raises:
            ValueError: The document is blank.
        """
        if not text.strip():
            raise ValueError(f"knowledge is empty ({text!r}); give a text, or None for no knowledge.")
        before, after = self.template.split("{knowledge}")
        return self._ids(before, text, after)

    def columns(self, text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
        """Return which tokens of a document in its template belong to some of its text, or to the template.

        Args:
            text: The document, as :meth:`knowledge` takes it.
            spans: First character of each piece, and the one behind its last.

        Raises:
            ValueError: The tokenizer does not say which characters a token is of.
        """
        before, after = self.template.split("{knowledge}")
        if not self.tokenizer.is_fast:
            raise ValueError("parts of a document need a fast tokenizer, which knows the characters of each token.")
        own = any(token in before + after for token in self.tokenizer.all_special_tokens)
        lead, tail = ("", "") if own else (before, after)
        first, last = (len(self._own(before)), len(self._own(after))) if own else (0, 0)
        whole = self.tokenizer(
            lead + text + tail, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        start, end = len(lead), len(lead) + len(text)
        wanted = [(start + left, start + right) for left, right in spans]
        found = list(range(first))
        for number, (left, right) in enumerate(whole.offset_mapping):
            inside = any(left < stop and right > begin for begin, stop in wanted)
            if inside or left < start or right > end:
                found.append(first + number)
        length = first + len(whole.input_ids)
        return [*found, *range(length, length + last)]

    def input(self, text: str, format: str | None = None) -> tuple[int, ...]:
        """Return the tokens of x in its format, without the anchor.

        Raises:
            ValueError: The input is blank.
        """
        if not text.strip():
            raise ValueError(f"input is empty ({text!r}); give a question or the beginning of a text.")
        wrap = self._wrapping(format)
        return self._ids(wrap.before, text, wrap.after.rstrip(" "))

    def prompt(self, example: Example, format: str | None = None) -> Prompt:
        """Tokenize one example; several documents are joined by line breaks, as one text that D(K, x) can read."""
        wrap = self._wrapping(format)
        space = " " if wrap.after.endswith(" ") else ""
        return Prompt(
            self.anchor(format),
            self.knowledge("\n".join(example.knowledge)) if example.knowledge else (),
            self.input(example.input, format),
            self._ids(space, example.target, wrap.end),
        )

    def _ids(self, before: str, text: str, after: str) -> tuple[int, ...]:
        """Return the tokens of a user's text between two of ours: control tokens come from ours alone."""
        if any(token in before + after for token in self.tokenizer.all_special_tokens):
            return (*self._own(before), *self._ids("", text, ""), *self._own(after))
        whole = self.tokenizer(before + text + after, add_special_tokens=False, split_special_tokens=True)
        return tuple(whole.input_ids)

    def _own(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids) if text else ()


def other_knowledge(knowledge: Sequence[tuple[int, ...]]) -> list[int] | None:
    """Give each example the next example whose knowledge differs; None if all know the same."""
    count = len(knowledge)
    partners = []
    for number in range(count):
        steps = (s for s in range(1, count) if knowledge[(number + s) % count] != knowledge[number])
        step = next(steps, None)
        if step is None:
            return None
        partners.append((number + step) % count)
    return partners


def truncate_knowledge(prompts: Sequence[Prompt], limit: int | None, window: int) -> list[Prompt]:
    """Cut K, from its end, to ``limit`` tokens and to the decoder's window; say how many were cut.

    Raises:
        ValueError: x and y alone pass the window: they are never cut.
    """
    kept, cut = [], 0
    for number, prompt in enumerate(prompts):
        rest = 2 * len(prompt.anchor) + len(prompt.input) + len(prompt.target)
        if rest >= window:
            raise ValueError(
                f"example {number}: input and target take {rest} tokens, but the decoder's window is {window}; "
                "shorten the input (only knowledge is ever truncated)."
            )
        room = window - rest if limit is None else min(limit, window - rest)
        if len(prompt.knowledge) > room:
            cut += 1
            prompt = replace(prompt, knowledge=prompt.knowledge[:room])
        kept.append(prompt)
    if cut:
        warnings.warn(f"The knowledge of {cut} of {len(prompts)} examples was cut to fit.", stacklevel=2)
    return kept


class Documents(TypedDict):
    """The documents of a batch that are prepared apart, P of them in all, each behind its anchor."""

    document_ids: Tensor
    """Anchor and document, int64 [P, D]."""
    document_mask: Tensor
    """Real tokens of the document alone, without the anchor, bool [P, D less the longest anchor]."""
    document_start: Tensor
    """First column of the document, int64 [P]."""
    document_row: Tensor
    """The row whose K it is of, int64 [P], in order."""


class Batch(TypedDict):
    """Both runs of a batch, padded on the right; a causal decoder needs no mask for that.

    Where the documents of any row are prepared apart, those of :class:`Documents` come with it.
    """

    full_ids: Tensor
    """Run with knowledge, int64 [B, F]."""
    input_ids: Tensor
    """Run over x, int64 [B, T]."""
    input_mask: Tensor
    """Real columns of ``input_ids``, bool [B, T]."""
    receives: Tensor
    """Columns of ``input_ids`` that receive a difference, bool [B, T]."""
    labels: Tensor
    """Target tokens at their own columns of ``input_ids``, elsewhere -100; int64 [B, T]."""
    offset: Tensor
    """Column p of x is column p + offset of the run with knowledge, for columns that receive; int64 [B]."""
    knowledge_start: Tensor
    """First column of K in ``full_ids``, int64 [B]."""
    knowledge_mask: Tensor
    """Real tokens of K, bool [B, K]."""


def collate(prompts: Sequence[Prompt], *, scope: str, anchor: str, padding: int = 0) -> Batch:
    """Lay out a batch of prompts.

    Args:
        prompts: B prompts with knowledge (D(x) alone needs none: an empty K is legal).
        scope: ``all`` or ``prompt``: whether y's positions receive.
        anchor: ``shared`` or ``own``.
        padding: Any token id; it is never read.
    """
    full, short, receives, labels, offsets = [], [], [], [], []
    for prompt in prompts:
        a, k, x, y = prompt.anchor, prompt.knowledge, prompt.input, prompt.target
        own = a if anchor == "own" else ()
        full.append(a + k + own + x + y)
        short.append(a + x + y)
        offsets.append(len(k) + len(own))
        starts = [anchor == "own"] * len(a)
        receives.append(starts + [True] * len(x) + [scope == "all"] * len(y))
        labels.append([IGNORED] * (len(a) + len(x)) + list(y))
    starts_at = torch.tensor([len(prompt.anchor) for prompt in prompts])
    batch = Batch(
        full_ids=_pad(full, padding),
        input_ids=_pad(short, padding),
        input_mask=_pad([[True] * len(row) for row in short], False),
        receives=_pad(receives, False),
        labels=_pad(labels, IGNORED),
        offset=torch.tensor(offsets),
        knowledge_start=starts_at,
        knowledge_mask=_pad([[True] * len(prompt.knowledge) for prompt in prompts], False),
    )
    if any(prompt.apart for prompt in prompts):
        batch.update(_documents(prompts, padding))  # type: ignore[typeddict-item]
    return batch


def _documents(prompts: Sequence[Prompt], padding: int) -> Documents:
    rows = [(row, p.anchor, document) for row, p in enumerate(prompts) for document in p.documents]
    return Documents(
        document_ids=_pad([anchor + document for _, anchor, document in rows], padding),
        document_mask=_pad([[True] * len(document) for _, _, document in rows], False),
        document_start=torch.tensor([len(anchor) for _, anchor, _ in rows]),
        document_row=torch.tensor([row for row, _, _ in rows]),
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on another device."""
    return {name: tensor.to(device) for name, tensor in batch.items()}  # type: ignore[return-value, attr-defined]


def run_of(batch: Batch, knowledge: bool) -> tuple[Tensor, Tensor]:
    """Return one of a batch's two runs: ids [B, columns], and how far right of their labels the targets stand [B]."""
    if knowledge:
        return batch["full_ids"], batch["offset"]
    return batch["input_ids"], batch["input_ids"].new_zeros(len(batch["input_ids"]))


def pad_left(rows: Sequence[Sequence[int]], padding: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask [B, longest], int64, padded on the left for generation.

    Args:
        rows: Tokens of B prompts.
        padding: A token id; 0 if None.
        device: Where they are needed.
    """
    length = max(map(len, rows))
    ids = torch.tensor([[padding or 0] * (length - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Pad rows on the right to the longest."""
    width = max(len(row) for row in rows)
    padded = [list(row) + [value] * (width - len(row)) for row in rows]
    kind = torch.bool if isinstance(value, bool) else torch.long  # named, for an empty list has none
    return torch.tensor(padded, dtype=kind).reshape(len(rows), width)
