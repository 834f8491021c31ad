"""Which columns of a prompt are what: padding, anchor, text.

Shapes: B rows, L columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig


def anchored(input_ids: Tensor, valid: Tensor, anchor: Sequence[int]) -> Tensor:
    """Find the columns of each row's anchor, bool [B, L]: its common beginning with the bank's anchor.

    The first real column belongs to it whatever it holds, for it carries the attention sink.

    Args:
        input_ids: Rows, int64 [B, L].
        valid: Real columns, bool [B, L].
        anchor: Tokens of the bank's anchor.
    """
    place = valid.long().cumsum(1) - 1
    found = valid & (place == 0)
    same = valid
    for number, token in enumerate(anchor):
        here = valid & (place == number)
        # A row counts as anchored up to the first token that differs.
        same = same & ((here & (input_ids == token)).any(1, keepdim=True))
        found = found | (here & same)
    return found


def guess_mask(input_ids: Tensor, settings: GenerationConfig | None, padding: int | None) -> Tensor:
    """Take padding tokens for padding, unless they also end texts, as Transformers' ``generate`` does; int64 [B, L].

    Args:
        input_ids: Rows, int64 [B, L].
        settings: The decoder's, which name its padding and its ends.
        padding: The padding token where the call names one.
    """
    padding = padding if padding is not None else getattr(settings, "pad_token_id", None)
    ends = getattr(settings, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    return torch.ones_like(input_ids) if padding is None or padding in ends else (input_ids != padding).long()
