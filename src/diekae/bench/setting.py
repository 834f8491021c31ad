"""What every benchmark shares: the decoder, banks and memories that are not trained, a clock, the rows of the result.

Speed depends on nothing learned, so banks, memories and caches hold random numbers, and any length costs no reading.
Banks must not be the identity all the same: their up-projections are random.

Shapes: N encoders, S slots, B rows, T columns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from diekae.config import DiekaeConfig
from diekae.fingerprint import window
from diekae.memory import Memory
from diekae.model import DiekaeModel
from diekae.prepare import read_documents
from diekae.run.timing import Times, Way, time_in_turn

BANKS: dict[str, dict[str, Any]] = {
    "token": {"encoder": "token", "layers": "memit", "scope": "prompt"},
    "reader": {"encoder": "reader", "layers": "every:3"},
    "attention": {"encoder": "attention", "layers": "every:3", "site": "attention"},
}
"""The banks that are measured: the paper's encoder in its six layers, and the two of ours, in every third."""
Progress = Callable[[str, int, int], None]
"""Told what is measured, how much of it is, and of how much."""


@dataclass
class Row:
    """One line of the issue's table: an aim, what was measured, and what cannot be gone below."""

    name: str
    """What is compared."""
    aim: float | None
    """The figure that is aimed at; None where there is none."""
    figure: float | None
    """What was measured; None where it was not."""
    floor: float | None = None
    """The same by operations, or bytes, that must be done; None where it was not counted."""
    at_least: bool = False
    """Whether more is better."""
    note: str = ""
    """Sizes, and how the floor was counted."""

    @property
    def reached(self) -> bool | None:
        """Tell whether the aim is reached; None where nothing was measured or aimed at."""
        if self.aim is None or self.figure is None:
            return None
        return self.figure >= self.aim if self.at_least else self.figure <= self.aim

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "reached": self.reached}


@dataclass
class Bench:
    """Where and how long to measure."""

    decoder: PreTrainedModel
    """The frozen decoder."""
    layers: Mapping[str, Any] = field(default_factory=dict)
    """Layers of a bank, by its name, where they differ from `BANKS` (tests with shallow decoders)."""
    lengths: Sequence[int] = (128, 256, 512, 1024, 2048, 4096, 8128)
    """Tokens of K; those beyond the decoder's window are left out."""
    inputs: int = 32
    """|x|, tokens of the input."""
    rounds: int = 7
    """Times that each way is timed, in turn with the others, after one round that warms up."""
    seed: int = 0
    """Of all random numbers."""
    curves: bool = True
    """Whether it is also measured how the cost of a pass grows with all but K."""
    progress: Progress = lambda _what, _done, _all: None
    """Told how far it is."""
    _models: dict[str, DiekaeModel] = field(default_factory=dict)

    @property
    def room(self) -> int:
        """Return how long K may be beside x and what is generated."""
        return window(self.decoder) - self.inputs - 16

    def fitting(self, most: int | None = None) -> list[int]:
        """Return the lengths of K that fit the window, and are at most ``most``."""
        return [length for length in self.lengths if length <= min(self.room, most or self.room)]

    def model(self, name: str, **options: Any) -> DiekaeModel:
        """Return the decoder with one of `BANKS` beside it, its up-projection random; options override the bank's."""
        key = f"{name} {sorted(options.items())}"
        if key not in self._models:
            own = {"layers": self.layers[name]} if name in self.layers else {}
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                model = DiekaeModel(self.decoder, DiekaeConfig(**{**BANKS[name], **own, **options})).eval()
                with torch.no_grad():
                    dict(model.bank.named_parameters())["encoder.up.weight"].normal_(0.0, 1e-3)
            model.anchor = (1,)
            self._models[key] = model
        return self._models[key]

    def ids(self, length: int, rows: int = 1) -> Tensor:
        """Return random tokens, int64 [rows, length]."""
        draw = torch.Generator().manual_seed(self.seed + length)
        words = self.decoder.config.get_text_config(decoder=True).vocab_size
        return torch.randint(4, words, (rows, length), generator=draw).to(self.decoder.device)

    def memory(self, model: DiekaeModel, length: int, copies: int = 1) -> Memory:
        """Return a memory as ``length`` tokens of K leave it, ``copies`` times: its shape, with random numbers."""
        small = read_documents(model.attached, model.anchor, [self.ids(2)[0].tolist()])[0]
        draw = torch.Generator().manual_seed(self.seed)
        tensors = {
            name: torch.randn((len(like), length * copies, *like.shape[2:]), generator=draw).to(like)
            for name, like in small.tensors.items()
        }
        places = None if small.places is None else (torch.arange(length) - length + 1).repeat(copies)
        return replace(small, tensors=tensors, position=length, places=places)

    def cache(self, length: int) -> DynamicCache:
        """Return the decoder's cache as ``length`` tokens leave it, with random keys and values."""
        return random_cache(self.decoder, length, self.seed)

    def bare(self, ids: Tensor) -> Way:
        """Return the decoder's own pass over ids [rows, length]."""
        return lambda: self.decoder(input_ids=ids, use_cache=False, logits_to_keep=1)

    def seconds(self, what: str, ways: Mapping[str, Way]) -> Times:
        """Return the seconds of each way; see :func:`time_in_turn`."""
        return time_in_turn(ways, self.rounds, lambda done, total: self.progress(what, done, total))


def random_cache(decoder: PreTrainedModel, length: int, seed: int = 0) -> DynamicCache:
    """Return a cache of ``length`` columns for a decoder with attention in every layer, random and of its type."""
    config = decoder.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = DynamicCache(config=decoder.config)
    draw = None if decoder.device.type == "meta" else torch.Generator(decoder.device).manual_seed(seed)
    for layer in range(config.num_hidden_layers):
        shape = (1, heads, length, size)
        keys, values = (
            torch.randn(shape, generator=draw, device=decoder.device, dtype=decoder.dtype) for _ in range(2)
        )
        cache.update(keys, values, layer)
    return cache


def copied(cache: DynamicCache) -> DynamicCache:
    """Return a copy whose growth leaves the first one as it is; keys and values are shared until then."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


def llama2_7b() -> PreTrainedModel:
    """Return LLaMA2-7B's shape in bf16 without weights: on the device ``meta``, which only counts."""
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
    )
    with torch.device("meta"):
        decoder: Any = LlamaForCausalLM(config)
    shape: PreTrainedModel = decoder.to(torch.bfloat16).eval()
    return shape
