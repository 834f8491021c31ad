"""Injection: the bank's differences enter the decoder's stream while it runs over x, prefill and cached steps alike.

Shapes: B rows as given, b rows as the decoder sees them (beams and samples repeat each row), T columns of one forward,
L columns of the prompt, W decoder width.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from diekae.encoders import Encoder, MemoryBatch
from diekae.encoders.bank import Bank
from diekae.inject.hookpoints import Hookpoint, stack_of
from diekae.inject.hooks import visiting


class EncoderCacheLayer(DynamicLayer):
    """What causal encoders have read of x, kept as one more layer of the decoder's own cache.

    So beam search, cropping and repetition treat it as they treat the decoder's keys and values.
    """

    def __init__(self, memory: MemoryBatch) -> None:
        """Hold what was read of x."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory = memory

    def get_seq_length(self) -> int:
        """Return the slots held."""
        return self.memory.mask.shape[1]

    def _select(self, rows: Tensor) -> None:
        self.memory = self.memory.map(lambda tensor, dim: tensor.index_select(dim, rows.to(tensor.device)))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams that survive."""
        self._select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self._select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self.memory = self.memory.map(lambda tensor, dim: tensor.repeat_interleave(repeats, dim))

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` columns of x."""
        if tokens_to_remove < 0:
            old, keep = self.memory, self.memory.mask.shape[1] + tokens_to_remove
            tensors = {name: tensor[:, :, :keep] for name, tensor in old.tensors.items()}
            self.memory = MemoryBatch(tensors, old.mask[:, :keep], old.position - old.mask[:, keep:].sum(1))

    def reset(self) -> None:
        """Forget everything; the next forward begins anew."""
        self.memory = self.memory.map(lambda tensor, _dim: tensor[:0])


class Injection:
    """One call's differences: made for one batch, used inside one ``with`` block, by one thread."""

    def __init__(
        self,
        bank: Bank,
        decoder: PreTrainedModel,
        points: Mapping[int, Hookpoint],
        memory: MemoryBatch,
        receives: Tensor,
        valid: Tensor,
        beyond: Tensor,
    ) -> None:
        """Prepare to inject.

        Args:
            bank: The encoders.
            decoder: The frozen decoder.
            points: Hookpoints of the bank's layers.
            memory: Knowledge of the B rows.
            receives: Columns of the prompt that receive, bool [B, L].
            valid: Columns of the prompt that are not padding, bool [B, L].
            beyond: Rows whose columns after the prompt receive too, bool [B].
        """
        self.bank, self.decoder, self.points = bank, decoder, points
        self.memory, self.receives, self.valid, self.beyond = memory, receives, valid, beyond
        self.numbers = {layer: number for number, layer in enumerate(bank.layers)}
        # Asked of the device once a call, and not again for every token.
        self._receiving: list[bool] = receives.any(0).tolist()
        self._later = bool(beyond.any())
        self._repeated: dict[int, MemoryBatch] = {}
        self._begun = False
        self._mask: Tensor | None = None
        self._ready: Tensor | None = None
        self._valid: Tensor | None = None
        self._seen: MemoryBatch | None = None
        self._grown: list[MemoryBatch] = []

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inject into every forward of the decoder that this thread makes inside the block."""
        thread, stack = threading.get_ident(), stack_of(self.decoder)

        # `*rest`, and the thread first: torch keeps a hook and its `with_kwargs` in two places, and another thread may
        # meet the one without the other.
        def before(_module: nn.Module, *rest: Any) -> None:
            if threading.get_ident() == thread:
                args, kwargs = rest
                self._begin(kwargs.get("input_ids", args[0] if args else None), kwargs)

        def after(_module: nn.Module, *rest: Any) -> None:
            if threading.get_ident() == thread:
                _args, kwargs, output = rest
                self._end(kwargs.get("past_key_values") or getattr(output, "past_key_values", None))

        with ExitStack() as exits:
            for handle in (
                stack.register_forward_pre_hook(before, with_kwargs=True),
                stack.register_forward_hook(after, with_kwargs=True),
            ):
                exits.callback(handle.remove)
            exits.enter_context(visiting(self.points, self._difference))
            yield

    def _begin(self, ids: Tensor | None, kwargs: Mapping[str, Any]) -> None:
        """Find out which columns this forward holds, and let encoders that need no states run at once."""
        embeddings = kwargs.get("inputs_embeds")
        given = ids if ids is not None else embeddings
        assert given is not None, "the decoder was called without input_ids or inputs_embeds"
        cache = kwargs.get("past_key_values")
        done = int(cache.get_seq_length()) if cache is not None else 0
        self._begun = True
        self._mask = self._valid = self._ready = None
        self._grown = []
        if not self._anyone(done):
            return
        rows, repeats = given.shape[0], given.shape[0] // self.receives.shape[0]
        mask = _columns(self.receives, done, given.shape[1], self.beyond).repeat_interleave(repeats, 0)
        assert mask.shape[0] == rows, (
            f"the decoder runs {rows} rows, not a multiple of the {self.receives.shape[0]} given"
        )
        self._mask = mask[..., None] if self._anyone(done, done + given.shape[1]) else None
        always = torch.ones_like(self.beyond)
        self._valid = _columns(self.valid, done, given.shape[1], always).repeat_interleave(repeats, 0)
        layer = _encoder_layer(cache)
        self._seen = layer.memory if layer is not None and done > 0 else None
        if self.bank.encoder.reads != "embeddings":
            return
        if embeddings is None:
            embeddings = self.decoder.get_input_embeddings()(ids)
        encoded = self.bank(
            self._rows(repeats), embeddings[None].to(self.bank.dtype), self._valid, slice(None), self._seen
        )
        self._ready, self._grown = encoded.difference, [encoded.seen]

    def _anyone(self, start: int, stop: int | None = None) -> bool:
        """Tell whether any row receives in columns start … stop, or in any from there on."""
        inside = any(self._receiving[start:stop])
        return inside or (self._later and (stop is None or stop > len(self._receiving)))

    def _end(self, cache: Cache | None) -> None:
        """Keep what causal encoders have read of x with the decoder's own cache, if it keeps one."""
        if self._grown and cache is not None:
            layer, seen = _encoder_layer(cache), MemoryBatch.stack(self._grown)
            if layer is None:
                cache.layers.append(EncoderCacheLayer(seen))
            else:
                layer.memory = seen
        self._mask = self._ready = self._valid = self._seen = None
        self._grown, self._begun = [], False

    def _difference(self, layer: int, stream: Tensor, output: Tensor) -> Tensor | None:
        """Return what is added at a hookpoint [b, T, W]; None where nobody receives."""
        assert self._begun, (
            f"{type(self.decoder).__name__} runs its blocks without calling {type(stack_of(self.decoder))}"
        )
        if self._valid is None:
            return None
        number = self.numbers[layer]
        if self._ready is not None:
            difference = self._ready[number]
        elif self._mask is None and self.bank.encoder.reads != "inputs":
            return None
        else:
            # An encoder that is causal over x reads all of it, also what receives nothing.
            asked = slice(number, number + 1)
            memory = self._rows(stream.shape[0] // self.receives.shape[0])
            x = read_by(self.bank.encoder, stream, output)[None]
            seen = None if self._seen is None else self._seen.of(asked)
            encoded = self.bank(memory, x, self._valid, asked, seen)
            difference = encoded.difference[0]
            if encoded.seen is not None:
                self._grown.append(encoded.seen)
        if self._mask is None:
            return None
        # -0.0 leaves every float as it is, +0.0 would turn -0.0 into +0.0: rows without knowledge stay bit for bit.
        return torch.where(self._mask, difference.to(stream.dtype), -torch.zeros_like(stream))

    def _rows(self, repeats: int) -> MemoryBatch:
        """Return the memory with each row repeated for its beams."""
        if repeats not in self._repeated:
            self._repeated[repeats] = (
                self.memory
                if repeats == 1
                else self.memory.map(lambda tensor, dim: tensor.repeat_interleave(repeats, dim))
            )
        return self._repeated[repeats]


def read_by(encoder: Encoder, stream: Tensor, output: Tensor) -> Tensor:
    """Return what an encoder of states reads where a module's output entered the stream, [B, T, W]."""
    return stream - output if encoder.reads == "inputs" else stream


def _columns(prompt: Tensor, done: int, length: int, beyond: Tensor) -> Tensor:
    """Return columns done … done + length of prompt [B, L], continued by ``beyond`` [B] after its end."""
    inside = prompt[:, done : done + length]
    missing = length - inside.shape[1]
    return torch.cat([inside, beyond[:, None].expand(-1, missing)], dim=1) if missing else inside


def _encoder_layer(cache: Cache | None) -> EncoderCacheLayer | None:
    """Find the encoders' layer in a cache."""
    layers = getattr(cache, "layers", [])
    return layers[-1] if layers and isinstance(layers[-1], EncoderCacheLayer) else None
