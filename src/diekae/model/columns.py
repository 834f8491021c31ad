"""Columns of one call: those in a cache, and those whose anchor is replaced by the anchor of the row's knowledge.

Shapes: B rows, L columns of the prompt, including those in a cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diekae.knowledge import PreparedKnowledge


def add_cached_columns(input_ids: Tensor, injection_mask: Tensor | None, cached_length: int) -> tuple[Tensor, Tensor]:
    """Put the columns that are in a cache before the new ones. Their tokens no longer matter, only their number.

    Args:
        input_ids: New columns, int64 [B, L - cached_length].
        injection_mask: Columns that receive, bool, new ones or all; None for all new ones.
        cached_length: Number of columns in the cache.

    Returns:
        ids and injection mask, both [B, L].
    """
    cached = input_ids.new_zeros((input_ids.shape[0], cached_length))
    if injection_mask is None:
        injection_mask = torch.ones_like(input_ids, dtype=torch.bool)
    if injection_mask.shape == input_ids.shape:
        injection_mask = torch.cat([cached.bool(), injection_mask.bool()], dim=1)
    return torch.cat([cached, input_ids], dim=1), injection_mask


def replaced_anchors(
    rows: Sequence[PreparedKnowledge | None], input_ids: Tensor, valid: Tensor, cached_length: int
) -> Tensor:
    """Return the columns of x that are replaced by the anchor of its knowledge, bool [B, L].

    Args:
        rows: Prepared knowledge of each row, or None.
        input_ids: The prompt, int64 [B, L].
        valid: Columns that are not padding, bool [B, L].
        cached_length: Number of columns in a cache; if any, the beginning of x is not checked again.

    Raises:
        ValueError: An input does not begin with the anchor that its knowledge was read after.
    """
    position = valid.long().cumsum(1) - 1
    lengths = torch.tensor([[0 if row is None else len(row.anchor_ids)] for row in rows], device=input_ids.device)
    for number, row in enumerate(rows):
        # A single token holds the attention sink, whichever token it is.
        if cached_length or row is None or len(row.anchor_ids) < 2:
            continue
        beginning = tuple(input_ids[number, valid[number]][: len(row.anchor_ids)].tolist())
        if beginning != row.anchor_ids:
            raise ValueError(
                f"input {number} begins with tokens {beginning}, but its knowledge was read after {row.anchor_ids}; "
                "prepare and tokenize in the same format: model.prepare(text, format=…), "
                "model.tokenize(question, format=…); of a chat also with the same system prompt."
            )
    return valid & (position < lengths)
