"""The columns of x in one call, and those of one forward of the decoder within it.

Shapes: B rows as given, b = B · repeats rows as the decoder runs them (it repeats each row for its beams or samples),
T columns of one forward, L columns of the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from diekae.inject.cache import cache_in


@dataclass(frozen=True, eq=False)
class Forward:
    """What the decoder is called with in one forward."""

    ids: Tensor | None
    """int64 [b, T]."""
    embeddings: Tensor | None
    """[b, T, V], where the decoder is called with embeddings instead of tokens."""
    positions: Tensor | None
    """The ``position_ids`` that it is called with."""
    cache: Cache | None
    start: int
    """Columns of x in the cache: the number of this forward's first column."""
    length: int
    """T."""
    repeats: int

    @classmethod
    def from_call(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: int) -> Forward:
        """Read the arguments of the decoder's stack.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.
            rows: B.
        """
        ids, embeddings = kwargs.get("input_ids", args[0] if args else None), kwargs.get("inputs_embeds")
        inputs = ids if ids is not None else embeddings
        assert inputs is not None, "the decoder was called without input_ids or inputs_embeds"
        cache = cache_in(kwargs)
        start = int(cache.get_seq_length()) if cache is not None else 0
        repeats = inputs.shape[0] // rows
        return cls(ids, embeddings, kwargs.get("position_ids"), cache, start, inputs.shape[1], repeats)

    @property
    def stop(self) -> int:
        """Return the columns of x up to the end of this forward."""
        return self.start + self.length

    def repeated(self, rows: Tensor) -> Tensor:
        """Return each of B rows as often as the decoder repeats it, [b, …]."""
        return rows if self.repeats == 1 else rows.repeat_interleave(self.repeats, 0)


class InputColumns:
    """Which columns of x receive, which are padding, and where x begins.

    The masks describe the L columns of the prompt. Later columns are generated: none of them is padding, and those of
    the rows in ``receives_later`` receive.
    """

    def __init__(self, receives: Tensor, valid: Tensor, receives_later: Tensor, hidden_anchor: Tensor) -> None:
        """Describe the columns of one call; arguments as for :class:`diekae.inject.injection.Injection`."""
        self.receives, self.valid, self.receives_later = receives, valid, receives_later
        self.hidden_anchor = hidden_anchor
        # Copied from the device once a call: to ask it again for every generated token would take longer.
        self._receives, self._receives_later, self._valid = receives.cpu(), receives_later.cpu(), valid.cpu()
        self._receives_or_unseen = self._receives | ~self._valid | hidden_anchor.cpu()
        self._columns_that_receive: list[bool] = self._receives.any(0).tolist()
        self._any_receives_later = bool(self._receives_later.any())
        self._all_receive_later = bool(self._receives_later.all())
        self._first_real: list[int] = valid.int().argmax(1).tolist()
        self.with_knowledge: Tensor = self._receives.any(1) | self._receives_later
        """Rows of which some column receives, bool [B], on the CPU."""

    def any_receives(self, start: int, stop: int | None = None) -> bool:
        """Tell whether any row receives in columns ``start`` to ``stop``; if None, in any from ``start`` on."""
        in_prompt = any(self._columns_that_receive[start:stop])
        later = stop is None or stop > len(self._columns_that_receive)
        return in_prompt or (self._any_receives_later and later)

    def receives_in(self, forward: Forward) -> Tensor:
        """Return which columns of a forward receive, bool [b, T]."""
        columns = forward.repeated(_columns_of(forward, self.receives, self.receives_later))
        inputs = forward.ids if forward.ids is not None else forward.embeddings
        assert inputs is not None and len(columns) == len(inputs), (
            f"the decoder runs a number of rows that is not a multiple of the {len(self.receives)} given"
        )
        return columns

    def valid_in(self, forward: Forward) -> Tensor:
        """Return which columns of a forward are not padding, bool [b, T]."""
        later = torch.ones_like(self.receives_later)
        return forward.repeated(_columns_of(forward, self.valid, later))

    def all_receive(self, forward: Forward) -> bool:
        """Tell whether all columns of a forward receive."""
        return self._all(forward, self._receives)

    def has_others(self, forward: Forward) -> bool:
        """Tell whether columns of a forward receive nothing that are neither padding nor x's anchor."""
        return not self._all(forward, self._receives_or_unseen)

    def _all(self, forward: Forward, prompt: Tensor) -> bool:
        """Tell whether columns of the prompt [B, L] are True in a forward, and whether those after its end receive."""
        later = forward.stop <= prompt.shape[1] or self._all_receive_later
        return later and bool(prompt[:, forward.start : forward.stop].all())

    def count_valid(self, stop: int) -> Tensor:
        """Return how many of each row's columns before ``stop`` are not padding, int64 [B], on the CPU."""
        valid = self._valid[:, :stop]
        return valid.sum(1) + (stop - valid.shape[1])

    @property
    def padded_left(self) -> bool:
        """Tell whether any row begins with padding."""
        return any(self._first_real)

    def positions_in(self, forward: Forward) -> Tensor:
        """Return the positions of a forward's columns, int64 [b, T], or [1, T] if they are the same in all rows.

        In rows with knowledge, the first column that is not padding stands at 0.

        Raises:
            ValueError: The decoder is called with positions that begin elsewhere.
        """
        device, repeats, positions = self.receives.device, forward.repeats, forward.positions
        if positions is None and not self.padded_left:
            return torch.arange(forward.start, forward.stop, device=device)[None]
        first = torch.tensor(self._first_real, device=device)[:, None]
        if positions is None:
            columns = torch.arange(forward.start, forward.stop, device=device)[None].expand(len(first), -1)
            starts = torch.where(self.with_knowledge.to(device)[:, None], first, 0)
            return forward.repeated((columns - starts).clamp(min=0))
        rows = len(first) * repeats
        if not forward.start and positions.shape[0] in (1, rows):
            of_given_rows = positions.expand(rows, -1)[::repeats]
            here = first[:, 0] < forward.length  # a prompt that is read in chunks may begin with chunks of padding
            begins = of_given_rows.gather(1, first.clamp(max=forward.length - 1))[:, 0]
            wrong = ((begins != 0) & here).cpu() & self.with_knowledge
            if bool(wrong.any()):
                raise ValueError(
                    f"position_ids of rows {wrong.nonzero().flatten().tolist()} do not begin at 0 at the first real "
                    "token; K is read where x begins at 0. Leave position_ids out."
                )
        return positions.expand(rows, -1)


def _columns_of(forward: Forward, prompt: Tensor, later: Tensor) -> Tensor:
    """Return the columns of a forward from those of the prompt [B, L], continued by ``later`` [B] after its end."""
    if forward.start >= prompt.shape[1]:
        return later[:, None].expand(-1, forward.length)
    in_prompt = prompt[:, forward.start : forward.stop]
    missing = forward.length - in_prompt.shape[1]
    return torch.cat([in_prompt, later[:, None].expand(-1, missing)], dim=1) if missing else in_prompt
