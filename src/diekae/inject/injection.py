"""Injection: K enters the decoder's run over x, prefill and cached steps alike, by a bank's encoders.

Shapes: B rows as given, b rows as the decoder sees them (beams and samples repeat each row), T columns of one forward,
L columns of the prompt, W decoder width.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import Cache

from diekae.encoders import KnowledgeBatch
from diekae.inject.attached import Attached
from diekae.inject.attention import Read, exact_length, reading, wrap_attention
from diekae.inject.cache import EncoderCacheLayer, encoder_layer
from diekae.inject.hookpoints import stack_of
from diekae.inject.hooks import Owner, Visit, visiting
from diekae.inject.slots import Columns, Slots, Watch


class Injection:
    """One call's injection: made for one batch, used inside one ``with`` block, by one context."""

    def __init__(
        self,
        attached: Attached,
        prepared: KnowledgeBatch,
        receives: Tensor,
        valid: Tensor,
        beyond: Tensor,
        hidden: Tensor,
        watch: Watch | None = None,
    ) -> None:
        """Prepare to inject.

        Args:
            attached: The bank, and its places in the decoder.
            prepared: Knowledge of the B rows.
            receives: Columns of the prompt that receive, bool [B, L].
            valid: Columns of the prompt that are not padding, bool [B, L].
            beyond: Rows whose columns after the prompt receive too, bool [B].
            hidden: Columns of x's own anchor, in whose place the attention reads that of the slots, bool [B, L].
            watch: Told how much attention K's slots are given, where the decoder's own reads them.
        """
        self.watch = watch
        self.attached, self.bank, self.decoder = attached, attached.bank, attached.decoder
        self.prepared, self.receives, self.valid, self.beyond = prepared, receives, valid, beyond
        self.hidden = hidden
        self._encoder: Any = self.bank.encoder
        self.numbers = {layer: number for number, layer in enumerate(self.bank.layers)}
        # Asked of the device once a call, and not again for every token.
        self._receives, self._beyond, self._valid_columns = receives.cpu(), beyond.cpu(), valid.cpu()
        self._receiving: list[bool] = self._receives.any(0).tolist()
        self._later = bool(self._beyond.any())
        self._knows: Tensor = self._receives.any(1) | self._beyond
        self._first: list[int] = valid.int().argmax(1).tolist()
        self._limit = exact_length(self.decoder) if attached.by_attention else None
        anchored = 0 if prepared.anchor is None else prepared.anchor.mask.sum(1)
        self._before = (prepared.position + anchored - hidden.sum(1)).cpu()
        self._cut = self._same_anchor()
        self._repeated: dict[int, KnowledgeBatch] = {}
        self._slots: dict[tuple[int, int], Slots] = {}
        self._begun = self._active = False
        self._forget()
        self._seen: KnowledgeBatch | None = None

    def _forget(self) -> None:
        self._mask: Tensor | None = None
        self._ready: Tensor | None = None
        self._valid: Tensor | None = None
        self._columns: Columns | None = None
        self._grown: list[KnowledgeBatch] = []
        self._thoughts: dict[int, Tensor] = {}

    def _same_anchor(self) -> int | None:
        """Return how many first columns every row's hidden anchor is; None where rows differ."""
        hidden = self.hidden.cpu()
        length = int(hidden[0].sum())
        same = bool(hidden[:, :length].all()) and not bool(hidden[:, length:].any())
        return length if same else None

    @contextmanager
    def active(self, guard: bool = False) -> Iterator[None]:
        """Inject into every forward of the decoder that this context (thread or task) makes inside the block.

        Args:
            guard: Refuse forwards of threads that were started inside the block, which would run without knowledge.

        Raises:
            ValueError: This context injects with the same bank, or through the same attention, already.
        """
        owner, stack = Owner(), stack_of(self.decoder)
        # The threads themselves: the system gives the number of one that has ended to the next.
        others = weakref.WeakSet(threading.enumerate()) if guard else None

        # `*rest`, and the owner first: torch keeps a hook and its `with_kwargs` in two places, and another thread may
        # meet the one without the other.
        def before(_module: nn.Module, *rest: Any) -> Any:
            if owner.here:
                args, kwargs = rest
                return args, self._begin(kwargs.get("input_ids", args[0] if args else None), kwargs)
            if others is not None and threading.current_thread() not in others and not self._told():
                raise RuntimeError(
                    "this thread was started inside an `injected` block and would run the decoder without knowledge. "
                    "Call model.generate(…, knowledge=…) in the thread instead, or run it in the block's context: "
                    "contextvars.copy_context().run(…)."
                )
            return None

        def after(_module: nn.Module, *rest: Any) -> None:
            if owner.here:
                _args, kwargs, output = rest
                self._end(kwargs.get("past_key_values") or getattr(output, "past_key_values", None))

        by_attention = self.attached.by_attention
        for one in _running.get():
            if (
                one._active
                and one.decoder is self.decoder
                and (one.bank is self.bank or (by_attention and one.attached.by_attention))
            ):
                raise ValueError(
                    "this thread is inside another `injected` block of the same model; end that one first. Two "
                    "generators that are advanced in turn need a thread or a context each."
                )
        _running.set((*_running.get(), self))
        self._active = True
        try:
            with ExitStack() as exits:
                exits.enter_context(owner)
                for handle in (
                    stack.register_forward_pre_hook(before, with_kwargs=True),
                    stack.register_forward_hook(after, with_kwargs=True),
                ):
                    exits.callback(handle.remove)
                if by_attention:
                    wrap_attention(self.decoder)  # lest it was given another implementation since
                    modules = {self.numbers[layer]: site.module for layer, site in self.attached.sites.items()}
                    exits.enter_context(reading(modules, self._read))
                visit: Visit = self._thought if by_attention else self._difference
                if not by_attention or self._encoder.sizes.mlp_width:
                    exits.enter_context(visiting(self.attached.points, visit))
                yield
        finally:
            self._active = False  # for contexts that were copied inside, or if another one ends the block
            _running.set(tuple(one for one in _running.get() if one is not self))

    def _told(self) -> bool:
        """Tell whether this context has said what the decoder is to know here: nothing, or something of its own."""
        return _outside.get() or any(one._active and one.decoder is self.decoder for one in _running.get())

    def _begin(self, ids: Tensor | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Find out which columns this forward holds; return its keywords, with positions where rows are padded."""
        embeddings = kwargs.get("inputs_embeds")
        given = ids if ids is not None else embeddings
        assert given is not None, "the decoder was called without input_ids or inputs_embeds"
        cache = kwargs.get("past_key_values")
        done = int(cache.get_seq_length()) if cache is not None else 0
        self._begun = True
        self._forget()
        changed = dict(kwargs)
        if not self._anyone(done):
            return changed
        rows, length, repeats = given.shape[0], given.shape[1], given.shape[0] // self.receives.shape[0]
        mask = _columns(self.receives, done, length, self.beyond).repeat_interleave(repeats, 0)
        assert mask.shape[0] == rows, (
            f"the decoder runs {rows} rows, not a multiple of the {self.receives.shape[0]} given"
        )
        self._mask = mask[..., None] if self._anyone(done, done + length) else None
        if self.attached.by_attention:
            if self._mask is not None:
                self._check_length(done + length)
                changed["position_ids"] = places = self._places(done, length, repeats, kwargs.get("position_ids"))
                self._columns = self._describe(mask, places, done, length, repeats, cache is not None)
                if kwargs.get("position_ids") is None and not any(self._first):
                    changed["position_ids"] = None  # the decoder's own are the same
            return changed
        always = torch.ones_like(self.beyond)
        self._valid = _columns(self.valid, done, length, always).repeat_interleave(repeats, 0)
        layer = encoder_layer(cache)
        self._seen = layer.prepared if layer is not None and done > 0 else None
        if self.bank.encoder.reads == "embeddings":
            if embeddings is None:
                embeddings = self.decoder.get_input_embeddings()(ids)
            encoded = self.bank(
                self._rows(repeats), embeddings[None].to(self.bank.dtype), self._valid, slice(None), self._seen
            )
            self._ready, self._grown = encoded.difference, [encoded.seen]
        return changed

    def _check_length(self, columns: int) -> None:
        """Refuse columns of x that stand, behind K, where the decoder turns positions otherwise.

        Raises:
            ValueError: There are some.
        """
        if self._limit is None:
            return
        valid = self._valid_columns[:, :columns]
        lengths = valid.sum(1) + (columns - valid.shape[1]) + self._before
        longest = int(lengths[self._knows].max())
        if longest > self._limit:
            raise ValueError(
                f"K and x have {longest} tokens together, and beyond {self._limit} this decoder turns all positions "
                "otherwise (longrope); prepare shorter documents apart, write less, or use encoder='reader'."
            )

    def _places(self, done: int, length: int, repeats: int, given: Tensor | None) -> Tensor:
        """Return the positions of a forward's columns, int64 [b, T]: in rows with knowledge the first real one is 0.

        Raises:
            ValueError: Positions were given that begin elsewhere.
        """
        device = self.receives.device
        first = torch.tensor(self._first, device=device)[:, None]
        if given is None:
            columns = torch.arange(done, done + length, device=device)[None].expand(len(first), -1)
            starts = torch.where(self._knows.to(device)[:, None], first, 0)
            return (columns - starts).clamp(min=0).repeat_interleave(repeats, 0)
        if not done and given.shape[0] in (1, len(first) * repeats):
            places = given.expand(len(first) * repeats, -1)[::repeats]
            wrong = (places.gather(1, first)[:, 0] != 0).cpu() & self._knows
            if bool(wrong.any()):
                raise ValueError(
                    f"position_ids of rows {wrong.nonzero().flatten().tolist()} do not begin at 0 at the first real "
                    "token; K is read where x begins at 0. Leave position_ids out."
                )
        return given.expand(len(first) * repeats, -1)

    def _describe(self, mask: Tensor, places: Tensor, done: int, length: int, repeats: int, more: bool) -> Columns:
        """Describe a forward to the attention of its layers."""
        # What padding answers is read by nobody.
        receives = _columns(self._receives | ~self._valid_columns, done, length, self._beyond)
        who: Literal["all", "behind", "some"] = "all" if bool(receives.all()) else "some"
        if who == "some" and not done and self._cut and length > self._cut:
            behind = bool(receives[:, self._cut :].all()) and not bool(receives[:, : self._cut].any())
            who = "behind" if behind else "some"
        hidden = self.hidden.repeat_interleave(repeats, 0)
        return Columns(self._rows(repeats), mask, places, hidden, self._cut, done + length, who, more, self.watch)

    def _read(self, number: int, states: Tensor) -> Read | None:
        """Return what the attention of encoder ``number``'s layer is handed, which reads ``states`` of x [b, T, W]."""
        columns = self._columns
        if columns is None:
            return None
        place = number, columns.prepared.mask.shape[0]
        if place not in self._slots:
            self._slots[place] = Slots(columns.prepared, number)
        slots, encoder = self._slots[place], self._encoder

        def read(*args: Any, **options: Any) -> tuple[Tensor, Any]:
            answer, weights = columns.read(slots, *args, **options)
            thought = encoder.think(number, states, answer.flatten(2))
            if thought is not None:
                self._thoughts[number] = thought
            return answer, weights

        return read

    def _thought(self, layer: int, stream: Tensor, _output: Tensor) -> Tensor | None:
        """Return what the MLP behind an attention adds, [b, T, W]."""
        thought = self._thoughts.pop(self.numbers[layer], None)
        return None if thought is None else self._added(thought, stream)

    def _anyone(self, start: int, stop: int | None = None) -> bool:
        """Tell whether any row receives in columns start … stop, or in any from there on."""
        inside = any(self._receiving[start:stop])
        return inside or (self._later and (stop is None or stop > len(self._receiving)))

    def _end(self, cache: Cache | None) -> None:
        """Keep what causal encoders have read of x with the decoder's own cache, if it keeps one."""
        if self._grown and cache is not None:
            layer, seen = encoder_layer(cache), KnowledgeBatch.stack(self._grown)
            if layer is None:
                cache.layers.append(EncoderCacheLayer(seen))
            else:
                layer.prepared = seen
        self._forget()
        self._seen, self._begun = None, False

    def _difference(self, layer: int, stream: Tensor, _output: Tensor) -> Tensor | None:
        """Return what is added at a hookpoint [b, T, W]; None where nobody receives."""
        assert self._begun, (
            f"{type(self.decoder).__name__} runs its blocks without calling {type(stack_of(self.decoder))}"
        )
        if self._valid is None or self._mask is None:
            return None
        number = self.numbers[layer]
        if self._ready is not None:
            return self._added(self._ready[number], stream)
        prepared = self._rows(stream.shape[0] // self.receives.shape[0])
        difference = self.bank(prepared, stream[None], self._valid, slice(number, number + 1)).difference[0]
        return self._added(difference, stream)

    def _added(self, difference: Tensor, stream: Tensor) -> Tensor:
        """Return a difference where columns receive, and nothing elsewhere."""
        # -0.0 leaves every float as it is, +0.0 would turn -0.0 into +0.0: rows without knowledge stay bit for bit.
        assert self._mask is not None
        return torch.where(self._mask, difference.to(stream.dtype), -torch.zeros_like(stream))

    def _rows(self, repeats: int) -> KnowledgeBatch:
        """Return the memory with each row repeated for its beams."""
        if repeats not in self._repeated:
            self._repeated[repeats] = (
                self.prepared
                if repeats == 1
                else self.prepared.map(lambda tensor, dim: tensor.repeat_interleave(repeats, dim))
            )
        return self._repeated[repeats]


_running: ContextVar[tuple[Injection, ...]] = ContextVar("diekae_running", default=())
_outside: ContextVar[bool] = ContextVar("diekae_outside", default=False)


@contextmanager
def bare() -> Iterator[None]:
    """Say that the decoder is meant to run as it is inside the block, whatever other threads inject."""
    outside = _outside.set(True)
    try:
        yield
    finally:
        _outside.reset(outside)


@contextmanager
def paused() -> Iterator[None]:
    """Run the decoder without any injection of this context inside the block."""
    inside = Owner.leave()
    try:
        with bare():
            yield
    finally:
        Owner.restore(inside)


def _columns(prompt: Tensor, done: int, length: int, beyond: Tensor) -> Tensor:
    """Return columns done … done + length of prompt [B, L], continued by ``beyond`` [B] after its end."""
    inside = prompt[:, done : done + length]
    missing = length - inside.shape[1]
    return torch.cat([inside, beyond[:, None].expand(-1, missing)], dim=1) if missing else inside
