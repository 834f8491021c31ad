"""Progress inside a long document, which takes minutes to prepare: which layer reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from diekae.inject.hookpoints import find_blocks
from diekae.model import DiekaeModel
from diekae.progress import Progress

LONG = 2048
"""Tokens from which on a document's layers are shown."""


@contextmanager
def layers_shown(model: DiekaeModel, show: Progress) -> Iterator[None]:
    """Show each layer of the decoder that begins to read a long document, until the block ends.

    Args:
        model: Its decoder is watched.
        show: Called with the number of the layer, and of all.
    """
    blocks = find_blocks(model.decoder)

    def begin(number: int, _block: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        states = inputs[0] if inputs else named["hidden_states"]
        if states.shape[1] >= LONG:
            show("layer that reads a long document", number, len(blocks))

    with ExitStack() as hooks:
        for number, block in enumerate(blocks, 1):
            handle = block.register_forward_pre_hook(partial(begin, number), with_kwargs=True)
            hooks.callback(handle.remove)
        yield
