"""Prompts: one example in tokens. Batches of them are laid out in :mod:`diekae.data.batch`."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from diekae.data.example import Example
from diekae.data.formats import Message, Wrapping, check_chat_template, spoken_turns, texts_around_turns, wrapping
from diekae.data.jsonl import check_unicode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_ENCODING = threading.Lock()
"""Whether special tokens are split is a setting of the tokenizer that each call changes: of two threads that encode at
once, one could read a user's text with special tokens."""

_MARK = "\x02system\x03"
"""Takes the place of a system prompt, so that the template's own text can be cut out around it."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One example in tokens: D(K, x) reads anchor, knowledge, input; D(x) reads anchor, input; both predict target."""

    anchor: tuple[int, ...]
    """Tokens that both runs begin with."""
    knowledge: tuple[int, ...]
    """Tokens of K in its template; empty for no knowledge."""
    input: tuple[int, ...]
    """Tokens of x in its format."""
    target: tuple[int, ...]
    """Tokens of y."""
    apart: tuple[tuple[int, ...], ...] = ()
    """Tokens of each document of K, if a bank prepares them separately; D(K, x) always reads ``knowledge``."""

    @property
    def documents(self) -> tuple[tuple[int, ...], ...]:
        """Return the tokens of each document that a bank prepares."""
        return self.apart or (self.knowledge,)


class Prompter:
    """Turns texts into tokens. Each part is tokenized separately, so that x has the same tokens in both runs.

    Special tokens in a user's text are split into ordinary ones: control tokens come from templates and formats alone.

    Example:
        >>> prompter = Prompter(tokenizer, "Context: {knowledge} ", "qa")
        >>> prompter.prompt(Example(("The bridge opened in 1932.",), "When did the bridge open?", "1932"))
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        default_format: str = "plain",
        system: str | None = None,
    ) -> None:
        """Set up tokenization: a template with ``{knowledge}`` in it, and a format for examples that name none.

        ``system`` is the prompt of chats that have none; None takes the chat template's default.
        """
        self.tokenizer, self.template = tokenizer, template
        self.default_format, self.system = default_format, system

    def anchor(self, format: str | None = None) -> tuple[int, ...]:
        """Return the tokens that both runs begin with; never empty, because they hold the attention sink."""
        return self._trusted_ids(self._wrapping(format).anchor) or (0,)

    def anchors_of(self, rows: Iterable[Sequence[int]]) -> list[tuple[int, ...]]:
        """Return the anchor that each row of tokens begins with: of any format, of a chat with any system prompt.

        Empty for a row that begins like none.
        """
        anchors = [self.anchor("plain")]  # that of qa too
        before: tuple[int, ...] = ()
        after: tuple[int, ...] = ()
        if self.can_chat():
            anchors.append(self.anchor("chat"))
            before, after = self._around_system_prompt()
        return [_anchor_of(tuple(row), anchors, before, after) for row in rows]

    def _around_system_prompt(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the tokens before a system prompt, and those between it and the user's turn.

        Both are empty if the template takes no system prompt, or marks its end by no special token, as texts may.
        """
        turns = [{"role": "system", "content": _MARK}, {"role": "user", "content": ""}]
        try:
            before, _, after = texts_around_turns(self.tokenizer, turns, None)[0].partition(_MARK)
        except (ValueError, TemplateError):
            return (), ()
        if not self._has_special_tokens(after):
            return (), ()
        return self._trusted_ids(before.rstrip()), self._trusted_ids(after)  # blanks may be merged with the prompt's

    def can_chat(self) -> bool:
        """Tell whether the tokenizer has a chat template, and it shows every turn."""
        turns = [{"role": role, "content": ""} for role in ("user", "assistant", "user")]
        try:
            return bool(self.tokenizer.chat_template and texts_around_turns(self.tokenizer, turns, self.system))
        except (ValueError, TemplateError):
            return False

    def knowledge(self, text: str) -> tuple[int, ...]:
        """Return the tokens of one document in its template; ValueError if it is blank."""
        if not text.strip():
            raise ValueError(f"knowledge is empty ({text!r}); give a text, or None for no knowledge.")
        before, after = self.template.split("{knowledge}")
        return self._ids(before, text, after)

    def input(self, text: str, format: str | None = None) -> tuple[int, ...]:
        """Return the tokens of x in its format, without the anchor; ValueError if x is blank."""
        if not text.strip():
            raise ValueError(f"input is empty ({text!r}); give a question or the beginning of a text.")
        wrap = self._wrapping(format)
        return self._ids(wrap.before, text, wrap.after.rstrip(" "))

    def prompt(self, example: Example, format: str | None = None) -> Prompt:
        """Tokenize one example. Several documents are joined by line breaks, as one text that D(K, x) can read."""
        wrap = self._wrapping(format)
        space = " " if wrap.after.endswith(" ") else ""  # tokenizers merge it with the first word of y
        return Prompt(
            self.anchor(format),
            self.knowledge("\n".join(example.knowledge)) if example.knowledge else (),
            self.input(example.input, format),
            self._ids(space, example.target, wrap.end),
        )

    def chat(self, messages: Sequence[Message]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the tokens of a chat's anchor, after which K comes, and all later tokens up to the answer.

        Raises:
            ValueError: The turns do not alternate from user to user, after a system prompt if any; one is blank; or the
                tokenizer has no chat template.
            TypeError: A turn is not a mapping, or its content is not a text.
        """
        check_chat_template(self.tokenizer)
        turns = spoken_turns(messages)
        first, *others = texts_around_turns(self.tokenizer, messages, self.system, add_generation_prompt=True)
        ids: list[int] = []
        for turn, after in zip(turns, others, strict=True):
            ids += [*self._ids("", turn["content"], ""), *self._trusted_ids(after)]
        return self._trusted_ids(first) or (0,), tuple(ids)

    def columns(self, text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
        """Return by number the tokens of a document that belong to the template, or to spans (start, end) of its text.

        Raises:
            ValueError: The tokenizer does not report the characters of its tokens.
        """
        if not self.tokenizer.is_fast:
            raise ValueError("parts of a document need a fast tokenizer, which knows the characters of each token.")
        before, after = self.template.split("{knowledge}")
        # As in `_ids`: a template with special tokens is tokenized separately from the text.
        separate = self._has_special_tokens(before + after)
        lead, tail = ("", "") if separate else (before, after)
        lead_count, tail_count = (len(self._trusted_ids(part)) if separate else 0 for part in (before, after))
        encoded = self._encode(lead + text + tail, split_special_tokens=True, return_offsets_mapping=True)
        start, end = len(lead), len(lead) + len(text)
        shifted = [(start + first, start + stop) for first, stop in spans]
        columns = list(range(lead_count))
        for number, (left, right) in enumerate(encoded.offset_mapping):
            in_span = any(left < stop and right > first for first, stop in shifted)
            if in_span or left < start or right > end:
                columns.append(lead_count + number)
        length = lead_count + len(encoded.input_ids)
        return [*columns, *range(length, length + tail_count)]

    def _wrapping(self, format: str | None) -> Wrapping:
        return wrapping(format or self.default_format, self.tokenizer, self.system)

    def _has_special_tokens(self, text: str) -> bool:
        return any(token in text for token in self.tokenizer.all_special_tokens)

    def _ids(self, before: str, text: str, after: str) -> tuple[int, ...]:
        """Return the tokens of a user's text between two trusted texts."""
        check_unicode("the text", text)
        if self._has_special_tokens(before + after):
            return (*self._trusted_ids(before), *self._ids("", text, ""), *self._trusted_ids(after))
        return tuple(self._encode(before + text + after, split_special_tokens=True).input_ids)

    def _trusted_ids(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text of a template or format, which may contain special tokens."""
        return tuple(self._encode(text).input_ids) if text else ()

    def _encode(self, text: str, **options: Any) -> Any:
        with _ENCODING:
            return self.tokenizer(text, add_special_tokens=False, **options)


def _anchor_of(
    row: tuple[int, ...], anchors: Sequence[tuple[int, ...]], before: tuple[int, ...], after: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the longest of some anchors that a row begins with, the last of which is a chat's.

    A chat with another system prompt has it between ``before`` and ``after``.
    """
    known = max((anchor for anchor in anchors if row[: len(anchor)] == anchor), key=len, default=())
    if after and known != anchors[-1] and row[: len(before)] == before:
        ends = range(len(after), len(row))
        return next((row[:end] for end in ends if row[end - len(after) : end] == after), known)
    return known


def other_knowledge(knowledge: Sequence[tuple[int, ...]]) -> list[int] | None:
    """Return for each example the number of the next example with different knowledge; None if all have the same."""
    count = len(knowledge)
    partners = []
    for number, tokens in enumerate(knowledge):
        following = ((number + step) % count for step in range(1, count))
        partner = next((other for other in following if knowledge[other] != tokens), None)
        if partner is None:
            return None
        partners.append(partner)
    return partners


def truncate_knowledge(prompts: Sequence[Prompt], limit: int | None, window: int) -> list[Prompt]:
    """Cut the end of K to ``limit`` tokens, and to the decoder's window in tokens; warn how many examples were cut.

    Raises:
        ValueError: x and y alone exceed the window; they are never cut.
    """
    truncated, cut_count = [], 0
    for number, prompt in enumerate(prompts):
        rest = 2 * len(prompt.anchor) + len(prompt.input) + len(prompt.target)
        if rest >= window:
            raise ValueError(
                f"example {number}: input and target take {rest} tokens, but the decoder's window is {window}; "
                "shorten the input (only knowledge is ever truncated)."
            )
        room = window - rest if limit is None else min(limit, window - rest)
        if len(prompt.knowledge) > room:
            cut_count += 1
            prompt = replace(prompt, knowledge=prompt.knowledge[:room])
        truncated.append(prompt)
    if cut_count:
        warnings.warn(f"The knowledge of {cut_count} of {len(prompts)} examples was cut to fit.", stacklevel=2)
    return truncated
