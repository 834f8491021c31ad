"""Which columns of the two runs of a training batch belong together.

Shapes: B rows, K knowledge tokens, F columns of the run with knowledge, T columns of the run over x, C columns of any
run, W decoder width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diekae.data.batch import Batch


def knowledge_columns(batch: Batch, length: int) -> Tensor:
    """Return the columns of K's tokens in a run of ``length`` columns, int64 [B, K]; those of padding lie inside it."""
    tokens = torch.arange(batch["knowledge_mask"].shape[1], device=batch["full_ids"].device)
    return (batch["knowledge_start"][:, None] + tokens).clamp(max=length - 1)


def run_columns(batch: Batch) -> Tensor:
    """Return, for each column of the run over x, its column in the run with knowledge; int64 [B, T]."""
    columns = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)[None]
    after_anchor = columns >= batch["knowledge_start"][:, None]
    shifted = columns + torch.where(after_anchor | batch["receives"], batch["offset"][:, None], 0)
    return shifted.clamp(max=batch["full_ids"].shape[1] - 1)


def run_positions(batch: Batch) -> Tensor:
    """Return positions for the run with knowledge, int64 [B, F], where x has the positions that it has without K."""
    columns = torch.arange(batch["full_ids"].shape[1], device=batch["full_ids"].device)
    return columns[None] - batch["offset"][:, None]


def take_columns(states: Tensor, columns: Tensor) -> Tensor:
    """Take columns [B, C'] of states [B, C, W]; returns [B, C', W]."""
    return torch.gather(states, 1, columns[..., None].expand(-1, -1, states.shape[-1]))
