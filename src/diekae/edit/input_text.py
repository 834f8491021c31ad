"""The text that a gate sees of an input: without anchor, padding and the words of the format."""

from __future__ import annotations

import torch
from torch import Tensor

from diekae.data.formats import FORMATS, wrapping
from diekae.data.prompt import Prompter


def input_texts(prompter: Prompter, input_ids: Tensor, attention_mask: Tensor | None) -> list[str]:
    """Return the text of each row.

    Args:
        prompter: Formats and tokenizer.
        input_ids: [B, L].
        attention_mask: 0 at padding, [B, L] or longer by what is cached.
    """
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
    rows = [ids[valid.bool()].tolist() for ids, valid in zip(input_ids, mask, strict=True)]
    return [inner_text(prompter, str(prompter.tokenizer.decode(row))) for row in rows]


def inner_text(prompter: Prompter, text: str) -> str:
    """Remove what a format puts around an input. The text begins with the anchor of its format, or of the bank's."""
    default_anchor = wrapping(prompter.default_format, prompter.tokenizer).anchor
    for name in reversed(FORMATS):
        if name == "chat" and not prompter.tokenizer.chat_template:
            continue
        wrap = wrapping(name, prompter.tokenizer)
        after = wrap.after.rstrip(" ")
        for before in (wrap.anchor + wrap.before, default_anchor + wrap.before):
            if text.startswith(before) and text.endswith(after):
                return text[len(before) : len(text) - len(after)].strip()
    return text.strip()
