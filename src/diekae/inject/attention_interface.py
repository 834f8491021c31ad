"""Wrapping the attention of a decoder's layers from outside.

Transformers calls the attention of every layer through an interface (``ALL_ATTENTION_FUNCTIONS``). The functions
registered here call the decoder's own implementation. Where :func:`wrap_attention` has set an :data:`AttentionWrapper`
for a layer, they call the wrapper, which is passed on as a keyword. Without one, the decoder computes the same as ever,
with the same tensors.

Shapes: B rows, T queries, C keys (with a cache C is longer than T), H query heads, G key heads, d head size, W decoder
width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from diekae.inject.contexts import HookContext
from diekae.inject.hookpoints import input_states

IMPLEMENTATIONS = ("sdpa", "eager")
"""Attention implementations that take a mask with an entry for each query and key."""
_PREFIX, _KEYWORD = "diekae_", "diekae_wrapper"

Masks = list[tuple[Any, int | None]]
"""Attention masks, each with the window or chunk it was made for."""
_RECORDED_MASKS: ContextVar[Masks | None] = ContextVar("diekae_masks", default=None)

AttentionFunction = Callable[..., tuple[Tensor, Any]]
"""The decoder's own attention: takes ``(module, query [B, H, T, d], key [B, G, C, d], value, mask, **options)`` and
returns its output [B, T, H, d], and its weights or None."""
AttentionWrapper = Callable[..., tuple[Tensor, Any]]
"""Called in place of the decoder's own attention, with that :data:`AttentionFunction` as an additional first argument;
returns the same."""


def implementation(decoder: PreTrainedModel) -> str:
    """Return the name of the decoder's own attention implementation, whether or not it can be wrapped."""
    name: str = decoder.config.get_text_config(decoder=True)._attn_implementation
    return name.removeprefix(_PREFIX)


def enable_wrapping(decoder: PreTrainedModel) -> None:
    """Make the decoder's attention call wrappers; without one its results stay the same. Can be called again.

    Raises:
        ValueError: The attention implementation takes no mask of queries and keys, or cannot be set.
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
    """Register an attention function and a mask function that call those of implementation ``name``."""

    def attend(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        wrapper: AttentionWrapper | None = kwargs.pop(_KEYWORD, None)
        attention: AttentionFunction | None = ALL_ATTENTION_FUNCTIONS.get(name)
        attention = attention or sys.modules[type(module).__module__].eager_attention_forward
        return attention(module, *args, **kwargs) if wrapper is None else wrapper(attention, module, *args, **kwargs)

    def make_mask(*args: Any, **kwargs: Any) -> Any:
        recorded, make = _RECORDED_MASKS.get(), ALL_MASK_ATTENTION_FUNCTIONS[name]
        if recorded is None:
            return make(*args, **kwargs)
        # The mask must not be skipped: its identity shows which mask a layer was given.
        recorded.append((make(*args, **{**kwargs, "allow_is_causal_skip": False}), kwargs.get("local_size")))
        return recorded[-1][0]

    ALL_ATTENTION_FUNCTIONS.register(_PREFIX + name, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_PREFIX + name, make_mask)


for _name in IMPLEMENTATIONS:
    _register(_name)


@contextmanager
def recorded_masks() -> Iterator[Masks]:
    """Record the attention masks that are made inside the block."""
    masks: Masks = []
    before = _RECORDED_MASKS.get()
    try:
        _RECORDED_MASKS.set(masks)
        yield masks
    finally:
        _RECORDED_MASKS.set(before)


MakeWrapper = Callable[[int, Tensor], AttentionWrapper | None]
"""Called in each forward as ``make_wrapper(number, states)``, with the number of an attention module and what it reads,
[B, T, W]. Returns the wrapper, or None to leave the attention as it is."""


def wrap_attention(modules: Mapping[int, nn.Module], make_wrapper: MakeWrapper) -> HookContext:
    """Return a block that wraps the attention of some layers in every forward of the current context inside it.

    Args:
        modules: Attention modules, each under a number.
        make_wrapper: See :data:`MakeWrapper`.
    """
    return HookContext(lambda context: add_wrappers(context, modules, make_wrapper))


def add_wrappers(context: HookContext, modules: Mapping[int, nn.Module], make_wrapper: MakeWrapper) -> None:
    """Add the hooks of :func:`wrap_attention` to a block that is being entered."""

    def make_hook(number: int) -> Any:
        def set_wrapper(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            wrapper = make_wrapper(number, input_states(args, kwargs))
            return None if wrapper is None else (args, {**kwargs, _KEYWORD: wrapper})

        return set_wrapper

    for number, module in modules.items():
        context.add_pre_hook(module, make_hook(number))


class AttentionCall(NamedTuple):
    """One call of a layer's attention."""

    number: int
    """Number of the attention module."""
    states: Tensor
    """What the module reads, [B, T, W]."""
    query: Tensor
    """[B, H, T, d]."""
    key: Tensor
    """[B, G, C, d], rotated to its positions; with a cache, keys of earlier columns too."""
    value: Tensor
    """[B, G, C, d]."""
    mask: Any
    """The layer's mask."""
    window: int | None
    """The sliding window that the layer names."""


def observe_attention(modules: Mapping[int, nn.Module], observe: Callable[[AttentionCall], None]) -> HookContext:
    """Return a block that calls ``observe`` before the attention of some layers, and leaves the attention as it is.

    Args:
        modules: Attention modules, each under a number.
        observe: Called in every forward of the current context inside the block.
    """

    def make_wrapper(number: int, states: Tensor) -> AttentionWrapper:
        def observe_and_attend(
            attention: AttentionFunction,
            module: nn.Module,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            *rest: Any,
            **options: Any,
        ) -> tuple[Tensor, Any]:
            mask = rest[0] if rest else options.get("attention_mask")
            observe(AttentionCall(number, states, query, key, value, mask, options.get("sliding_window")))
            return attention(module, query, key, value, *rest, **options)

        return observe_and_attend

    return wrap_attention(modules, make_wrapper)


def refusal(decoder: PreTrainedModel, reason: str) -> str:
    """Return the error message for a decoder that cannot be read exactly."""
    return f"encoder='attention' cannot read exactly with {type(decoder).__name__}: {reason}. Use encoder='reader'."
