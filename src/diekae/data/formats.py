"""Formats: the texts around x and y, and the turns of a chat.

``plain``: x, a space, y. ``qa``: Question: x, a line break, Answer: y. ``chat``: the tokenizer's chat template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from diekae.fields import check_choice

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Format = Literal["plain", "qa", "chat"]
FORMATS: tuple[Format, ...] = get_args(Format)
"""Names of the formats."""
Message = Mapping[str, str]
"""One turn of a chat: ``role`` (system, user or assistant) and ``content``."""


class Wrapping(NamedTuple):
    """The texts around x and y in one format."""

    anchor: str
    """Beginning of both runs, before K."""
    before: str
    """Text between K and x."""
    after: str
    """Text between x and y."""
    end: str
    """Text after y."""


def wrapping(name: str, tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> Wrapping:
    """Return the texts that a format puts around x and y; ``system`` replaces the chat template's own system prompt.

    Raises:
        ValueError: The format is unknown, or it is ``chat`` and the tokenizer has no chat template.
    """
    bos = tokenizer.bos_token or tokenizer.eos_token or ""
    if name == "plain":
        return Wrapping(bos, "", " ", "")
    if name == "qa":
        return Wrapping(bos, "Question: ", "\nAnswer: ", "\n")
    check_choice(f"format={name!r}", name, FORMATS)
    check_chat_template(tokenizer)
    turns: list[Message] = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    anchor, after, end = texts_around_turns(tokenizer, turns, system)
    return Wrapping(anchor, "", after, end.rstrip("\n"))


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without a chat template, by a ValueError."""
    if not tokenizer.chat_template:
        raise ValueError(
            "format='chat' needs a tokenizer with a chat template, and this one has none; use 'plain' or 'qa'."
        )


def texts_around_turns(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], system: str | None, **options: Any
) -> list[str]:
    """Return the texts that the chat template puts before, between and after the turns of user and assistant.

    The system prompt is part of the first text: the application writes it, not the user. The turns may begin with one;
    ``system`` is for chats that have none. The options are those of ``apply_chat_template``.

    Raises:
        ValueError: The template leaves a turn out, or repeats one.
    """
    turns = [dict(turn) for turn in messages]
    if system is not None and (not turns or turns[0]["role"] != "system"):
        turns.insert(0, {"role": "system", "content": system})
    # Markers take the place of the contents, so that the template's own text can be cut out between them.
    marked = [
        turn if turn["role"] == "system" else {**turn, "content": f"\x02{number}\x03"}
        for number, turn in enumerate(turns)
    ]
    text = str(tokenizer.apply_chat_template(marked, tokenize=False, **options))
    texts = re.split("\x02[0-9]+\x03", text)
    spoken = sum(turn["role"] != "system" for turn in turns)
    if len(texts) != spoken + 1:
        raise ValueError(
            f"the tokenizer's chat template shows {len(texts) - 1} of {spoken} turns of a chat; expected each once. "
            "Use the format 'plain' or 'qa', or give the tokenizer another template."
        )
    return texts


def spoken_turns(messages: Sequence[Message]) -> list[Message]:
    """Return the turns of user and assistant, without the system prompt.

    Raises:
        ValueError: The turns do not alternate, the last is not the user's, or one is blank.
        TypeError: A turn is not a mapping, or its content is not a text.
    """
    for turn in messages:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str):
            raise TypeError(f"a turn of the chat is {turn!r}; expected {{'role': 'user', 'content': 'a text'}}.")
    roles = [turn.get("role") for turn in messages]
    first = 1 if roles[:1] == ["system"] else 0
    expected = [("user", "assistant")[number % 2] for number in range(len(roles) - first)]
    if not expected or roles[first:] != expected or expected[-1] != "user":
        raise ValueError(f"a chat's turns are {roles}; expected user and assistant by turns, the last a user's.")
    if any(not turn["content"].strip() for turn in messages):
        raise ValueError(f"a turn of the chat is blank: {[dict(turn) for turn in messages]!r}.")
    return list(messages[first:])


def last_questions(messages: Sequence[Message]) -> list[Message]:
    """Return a chat in which the user's last two turns are one, after the system prompt if any.

    A follow-up question often omits its subject, so the one before it is added.
    """
    asked = [turn["content"] for turn in messages if turn["role"] == "user"][-2:]
    system = [turn for turn in messages[:1] if turn["role"] == "system"]
    return [*system, {"role": "user", "content": " ".join(asked)}]
