"""Which columns of a prompt are padding, and which hold the anchor.

Shapes: B rows, L columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig


def anchored(input_ids: Tensor, valid: Tensor, anchor: Sequence[int]) -> Tensor:
    """Find the columns in which each row begins like the bank's anchor, bool [B, L].

    The first real column counts as anchor whatever its token is, because it carries the attention sink.

    Args:
        input_ids: Rows, int64 [B, L].
        valid: Columns that are not padding, bool [B, L].
        anchor: Tokens of the bank's anchor.
    """
    number_in_row = valid.long().cumsum(1) - 1
    columns = valid & (number_in_row == 0)
    equal_so_far = valid
    for number, token in enumerate(anchor):
        column = valid & (number_in_row == number)
        equal_so_far = equal_so_far & (column & (input_ids == token)).any(1, keepdim=True)
        columns = columns | (column & equal_so_far)
    return columns


def unpadded(input_ids: Tensor, mask: Tensor | None) -> list[tuple[int, ...]]:
    """Return the tokens of each row [B, L]; the mask is 0 at padding, [B, L] or longer by what is cached."""
    if mask is None:
        return [tuple(row) for row in input_ids.tolist()]
    valid = mask[:, -input_ids.shape[1] :].bool()
    return [tuple(row[keep].tolist()) for row, keep in zip(input_ids, valid, strict=True)]


def guess_mask(input_ids: Tensor, settings: GenerationConfig | None, padding: int | None) -> Tensor:
    """Return an attention mask that hides padding tokens, int64 [B, L].

    As in Transformers' ``generate``, a padding token that also ends texts is not taken for padding.

    Args:
        input_ids: Rows, int64 [B, L].
        settings: The decoder's settings, with its padding token and its end-of-text tokens.
        padding: The padding token, if the call names one.
    """
    padding = padding if padding is not None else getattr(settings, "pad_token_id", None)
    ends = getattr(settings, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    return torch.ones_like(input_ids) if padding is None or padding in ends else (input_ids != padding).long()
