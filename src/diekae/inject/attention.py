"""The attention of a decoder's layers: found by a run, and told from outside to read more than it is given.

Transformers sends the attention of every layer through an interface (``ALL_ATTENTION_FUNCTIONS``). What is registered
here calls the decoder's own implementation, and hands the call to a :data:`Read` where one came down with it as a
keyword. Without one the decoder computes what it computes anyway, with the same tensors.

Shapes: B rows, T queries, C keys (with a cache C is longer than T), H query heads, G key heads, d head size, W decoder
width.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from diekae.inject.hookpoints import TOKENS, find_blocks, stack_of
from diekae.inject.hooks import Owner

IMPLEMENTATIONS = ("sdpa", "eager")
"""Attention implementations that take a mask with an entry for each query and key."""
_PREFIX, _KEYWORD = "diekae_", "diekae_read"
_MADE: ContextVar[list[tuple[Any, int | None]] | None] = ContextVar("diekae_made", default=None)
"""Masks made while :func:`find_attention` looks, each with the window or chunk that it was made for."""

Attend = Callable[..., tuple[Tensor, Any]]
"""The decoder's own attention: ``(module, query [B, H, T, d], key [B, G, C, d], value, mask, **options)`` to an answer
[B, T, H, d] and its weights or None."""
Read = Callable[..., tuple[Tensor, Any]]
"""What stands in its place: the same arguments behind the :data:`Attend` itself."""


@dataclass(frozen=True)
class AttentionSite:
    """The attention of one decoder layer."""

    module: nn.Module
    """What projects queries, keys and values and calls the interface."""
    heads: int
    """H."""
    key_shape: tuple[int, int]
    """G, and the dimensions of a key."""
    value_shape: tuple[int, int]
    """G, and the dimensions of a value."""
    turned: bool = True
    """Whether keys are turned to their positions; some decoders have layers without positions."""


def implementation(decoder: PreTrainedModel) -> str:
    """Return the name of the decoder's own attention implementation, whether it is wrapped or not."""
    name: str = decoder.config.get_text_config(decoder=True)._attn_implementation
    return name.removeprefix(_PREFIX)


def wrap_attention(decoder: PreTrainedModel) -> None:
    """Let the decoder's attention take a :data:`Read`; its results stay the same without one. A second call is free.

    Raises:
        ValueError: Its implementation takes no mask of queries and keys, or it has none that can be set.
    """
    name = implementation(decoder)
    if decoder.config.get_text_config(decoder=True)._attn_implementation == _PREFIX + name:
        return
    if name not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention implementation {name!r} takes no mask of queries and keys, so it cannot read knowledge; load "
            f"the decoder with attn_implementation={' or '.join(map(repr, IMPLEMENTATIONS))}, or use encoder='reader'."
        )
    decoder.set_attn_implementation(_PREFIX + name)
    if decoder.config.get_text_config(decoder=True)._attn_implementation != _PREFIX + name:
        raise ValueError(refusal(decoder, "its attention does not go through Transformers' attention interface"))


def _register(name: str) -> None:
    def attend(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        read: Read | None = kwargs.pop(_KEYWORD, None)
        own: Attend = ALL_ATTENTION_FUNCTIONS.get(name) or sys.modules[type(module).__module__].eager_attention_forward
        return own(module, *args, **kwargs) if read is None else read(own, module, *args, **kwargs)

    def mask(*args: Any, **kwargs: Any) -> Any:
        made, own = _MADE.get(), ALL_MASK_ATTENTION_FUNCTIONS[name]
        if made is None:
            return own(*args, **kwargs)
        # Made in any case: one that is left out cannot be known again by the attention it is handed to.
        made.append((own(*args, **{**kwargs, "allow_is_causal_skip": False}), kwargs.get("local_size")))
        return made[-1][0]

    ALL_ATTENTION_FUNCTIONS.register(_PREFIX + name, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_PREFIX + name, mask)


for _name in IMPLEMENTATIONS:
    _register(_name)


@contextmanager
def reading(modules: Mapping[int, nn.Module], make: Callable[[int, Tensor], Read | None]) -> Iterator[None]:
    """Hand a :data:`Read` to the attention of some layers in every forward that this context makes inside the block.

    Args:
        modules: Attention modules by a number of the caller's.
        make: Called with that number and with what the attention reads, [B, T, W]; None leaves the decoder alone.
    """
    owner, handles = Owner(), list[Any]()

    def hook_of(number: int) -> Any:
        # `*rest`: another thread may meet this hook before torch has noted that it takes keywords.
        def hook(_module: nn.Module, *rest: Any) -> Any:
            if not owner.here:
                return None
            args, kwargs = rest
            read = make(number, args[0] if args else kwargs["hidden_states"])
            return None if read is None else (args, {**kwargs, _KEYWORD: read})

        return hook

    with owner:
        try:
            for number, module in modules.items():
                handles.append(module.register_forward_pre_hook(hook_of(number), with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()


@torch.no_grad()
def find_attention(decoder: PreTrainedModel) -> list[AttentionSite]:
    """Find the attention of every layer by a run over a few tokens.

    Raises:
        ValueError: Some layer's attention does not go through Transformers' attention interface, or does not name the
            window that its mask is cut to.
    """
    wrap_attention(decoder)
    blocks = find_blocks(decoder)
    candidates = [
        (layer, module)
        for layer, block in enumerate(blocks)
        for module in block.modules()
        if module is not block and _takes_keywords(module)
    ]
    sites: dict[int, list[AttentionSite]] = {}
    masks: dict[int, tuple[Any, int | None]] = {}

    def make(number: int, _states: Tensor) -> Read:
        layer, candidate = candidates[number]

        def read(
            own: Attend, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any
        ) -> tuple[Tensor, Any]:
            found = AttentionSite(candidate, query.shape[1], _shape(key), _shape(value))
            sites.setdefault(layer, []).append(found)
            masks[layer] = rest[0] if rest else options.get("attention_mask"), options.get("sliding_window")
            return own(module, query, key, value, *rest, **options)

        return read

    vocabulary = int(decoder.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    ids = torch.arange(TOKENS, device=decoder.device)[None] % vocabulary
    made: list[tuple[Any, int | None]] = []
    with reading({number: module for number, (_, module) in enumerate(candidates)}, make):
        token = _MADE.set(made)
        try:
            stack_of(decoder)(input_ids=ids, use_cache=False)
        finally:
            _MADE.reset(token)
    missing = [layer for layer in range(len(blocks)) if len(sites.get(layer, [])) != 1]
    if missing:
        raise ValueError(
            refusal(decoder, f"layers {missing} do not attend through Transformers' attention interface, once each")
        )
    _check_windows(decoder, masks, made)
    return [sites[layer][0] for layer in range(len(blocks))]


def _check_windows(
    decoder: PreTrainedModel, masks: Mapping[int, tuple[Any, int | None]], made: list[tuple[Any, int | None]]
) -> None:
    """Refuse windows that are known to the mask alone: K's slots stand before the mask's first column.

    Args:
        decoder: What has run.
        masks: By layer, the mask that its attention was given, and the window that it names.
        made: The masks that were made, and the window or chunk of each.

    Raises:
        ValueError: A layer's window is not the one it names.
    """
    windows = {id(mask): window for mask, window in made}
    unknown = -1
    wrong = [layer for layer, (mask, named) in masks.items() if windows.get(id(mask), unknown) != named]
    if any(windows.values()) and wrong:
        raise ValueError(
            refusal(decoder, f"layers {sorted(wrong)} see a part of the text, and their attention does not say which")
        )


def _takes_keywords(module: nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def _shape(states: Tensor) -> tuple[int, int]:
    return states.shape[1], states.shape[3]


def refusal(decoder: PreTrainedModel, why: str) -> str:
    """Say that a decoder cannot be read exactly, why, and what to use instead."""
    return f"encoder='attention' cannot read exactly with {type(decoder).__name__}: {why}. Use encoder='reader'."


def check_positions(decoder: PreTrainedModel) -> None:
    """Refuse positions whose angles depend on how long the whole text is.

    Raises:
        ValueError: The decoder scales its rotary positions dynamically.
    """
    if "dynamic" in _rope_kinds(decoder):
        raise ValueError(
            refusal(decoder, "its rotary positions are scaled dynamically, by the length of the whole text")
        )


def exact_length(decoder: PreTrainedModel) -> int | None:
    """Return the longest K and x together whose angles do not depend on their length; None where none ever do.

    ``longrope`` turns every token otherwise once the text passes the length of the first training.
    """
    if "longrope" not in _rope_kinds(decoder):
        return None
    config = decoder.config.get_text_config(decoder=True)
    parameters: Any = getattr(config, "rope_parameters", None) or {}
    length = parameters.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    return None if length is None else int(length)


def _rope_kinds(decoder: PreTrainedModel) -> set[str]:
    parameters: Any = getattr(decoder.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    tables = [parameters, *(table for table in parameters.values() if isinstance(table, dict))]
    return {str(table["rope_type"]) for table in tables if "rope_type" in table}


class Turner:
    """Turns keys as the decoder does: by its own rotary angles and its own function."""

    def __init__(self, decoder: PreTrainedModel, sites: Mapping[int, AttentionSite], places: Tensor) -> None:
        """Prepare to turn keys that stand at places, int [B, S]."""
        self.decoder, self.sites, self.places = decoder, sites, places
        self._angles: dict[str | None, tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: int, keys: Tensor) -> Tensor:
        """Turn keys [B, S, G, d] of one layer.

        Raises:
            ValueError: The decoder turns its keys in a way of its own.
        """
        if not self.sites[layer].turned:
            return keys
        turn = getattr(sys.modules[type(self.sites[layer].module).__module__], "apply_rotary_pos_emb", None)
        angles = self._angles_of(layer, keys)
        if turn is None or len(angles) != 2:
            raise ValueError(
                f"{type(self.decoder).__name__} turns its keys in a way of its own, so their change cannot be trained; "
                "use encoder_options={'rank': 0}."
            )
        cos, sin = (angle.to(keys.dtype) for angle in angles)

        def turned(part: Tensor) -> Tensor:
            heads = part.transpose(1, 2)
            result: Tensor = turn(heads, heads, cos, sin)[1].transpose(1, 2)
            return result

        try:
            return turned(keys)  # some functions leave the dimensions that are not turned to themselves
        except RuntimeError:
            size = cos.shape[-1]
            return torch.cat([turned(keys[..., :size]), keys[..., size:]], dim=-1)

    def _angles_of(self, layer: int, like: Tensor) -> tuple[Tensor, ...]:
        rotary: Any = getattr(stack_of(self.decoder), "rotary_emb", None)
        if rotary is None:
            return ()
        kinds = getattr(self.decoder.config.get_text_config(decoder=True), "layer_types", None)
        kind = kinds[layer] if kinds and "layer_type" in inspect.signature(rotary.forward).parameters else None
        if kind not in self._angles:
            options = {} if kind is None else {"layer_type": kind}
            with torch.no_grad():
                self._angles[kind] = rotary(like, self.places.to(like.device), **options)
        angles = self._angles[kind]
        return angles if isinstance(angles, tuple) else (angles,)
