"""What every benchmark shares: the decoder, banks and memories that are not trained, a clock, the rows of the result.

Speed depends on nothing learned, so banks, memories and caches hold random numbers, and any length costs no reading.
Banks must not be the identity all the same: what starts at zero is random.

Every way answers the same question: D(x) and ours read anchor and x, and a cached prefix holds anchor and K and reads x
alone. All keep a cache, and the head runs at the last column.

Shapes: N encoders, S slots, B rows, T columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel, StaticCache

from diekae.checkpoint import load_bank
from diekae.config import DiekaeConfig, resolve_layers
from diekae.encoders.bank import Bank
from diekae.fingerprint import window
from diekae.inject.attached import Attached
from diekae.inject.hookpoints import Hookpoint, find_blocks
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.prepare import read_documents
from diekae.progress import Progress, silent
from diekae.run.timing import Times, Way, time_in_turn

_ATTENTION = {"encoder": "attention", "site": "attention"}
BANKS: dict[str, dict[str, Any]] = {
    "token": {"encoder": "token", "layers": "memit", "scope": "prompt"},
    "reader": {"encoder": "reader", "layers": "every:3"},
    "attention": {**_ATTENTION, "layers": "every:2"},
    "exact": {**_ATTENTION, "layers": "all", "encoder_options": {"rank": 0, "mlp_width": 0}},
}
"""The banks that are measured: the paper's encoder in its six layers, and ours."""
GIVEN = "bank"
"""Name of a bank that was given, beside those."""


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
    lengths: Sequence[int] = (32, 128, 512, 1024, 2048, 4096, 8000)
    """Tokens of K; those beyond the decoder's window are left out."""
    inputs: int = 32
    """|x|, tokens of the input, its anchor left out."""
    rounds: int = 7
    """Times that each way is timed, in turn with the others, after one round that warms up."""
    seed: int = 0
    """Of all random numbers."""
    curves: bool = True
    """Whether it is also measured how the cost of a pass grows with all but K."""
    progress: Progress = silent
    """Told how far it is."""
    bank: str | Path | None = None
    """Folder of a bank for this decoder, or the name of a shipped one, that is measured beside `BANKS`."""
    others: Sequence[str] = ("token", "reader")
    """Which of `BANKS` are measured besides ours."""
    _models: dict[str, DiekaeModel] = field(default_factory=dict)

    @property
    def ours(self) -> tuple[str, ...]:
        """Return the banks that the issue's aims are for."""
        return ("exact", "attention", *([GIVEN] if self.bank is not None else []))

    @property
    def names(self) -> tuple[str, ...]:
        """Return all banks that are measured."""
        return (*self.others, *self.ours)

    @cached_property
    def anchor(self) -> tuple[int, ...]:
        """Return the tokens that every run begins with: the given bank's, or a single one."""
        return (1,) if self.bank is None else load_bank(Path(self.bank)).anchor

    @property
    def room(self) -> int:
        """Return how long K may be beside anchor, x and what is generated."""
        return window(self.decoder) - len(self.anchor) - self.inputs - 16

    @property
    def static(self) -> bool:
        """Tell whether a cache of fixed size is measured too."""
        return bool(self.decoder.config.get_text_config(decoder=True).model_type == "llama")

    def fitting(self, most: int | None = None) -> list[int]:
        """Return the lengths of K that fit the window, and are at most ``most``."""
        return [length for length in self.lengths if length <= min(self.room, most or self.room)]

    def model(self, name: str, **options: Any) -> DiekaeModel:
        """Return the decoder with the given bank beside it, or with a random one of `BANKS`, whose options differ."""
        key = f"{name} {sorted(options.items())}"
        if key not in self._models:
            self._models[key] = self._given() if name == GIVEN else self._random(name, options)
        return self._models[key]

    def _given(self) -> DiekaeModel:
        assert self.bank is not None, "no bank was given"
        return DiekaeModel.from_pretrained(self.bank, self.decoder).eval()

    @torch.no_grad()
    def _random(self, name: str, options: Mapping[str, Any]) -> DiekaeModel:
        layers = {"layers": self.layers[name]} if name in self.layers else {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = DiekaeModel(self.decoder, DiekaeConfig(**{**BANKS[name], **layers, **options})).eval()
            for parameter in model.bank.parameters():
                if not parameter.any():
                    parameter.normal_(0.0, 1e-3)
        model.anchor = self.anchor
        return model

    def ids(self, length: int, rows: int = 1) -> Tensor:
        """Return random tokens, int64 [rows, length]."""
        draw = torch.Generator().manual_seed(self.seed + length)
        words = self.decoder.config.get_text_config(decoder=True).vocab_size
        return torch.randint(4, words, (rows, length), generator=draw).to(self.decoder.device)

    def question(self, length: int | None = None, rows: int = 1) -> Tensor:
        """Return anchor and x, int64 [rows, a + length]; ``inputs`` tokens of x if None."""
        anchor = torch.tensor([self.anchor], device=self.decoder.device).expand(rows, -1)
        return torch.cat([anchor, self.ids(length or self.inputs, rows)], dim=1)

    def prepared(self, model: DiekaeModel, length: int, copies: int = 1) -> PreparedKnowledge:
        """Return a memory as ``length`` tokens of K leave it, ``copies`` times: its shape, with random numbers."""
        small = read_documents(model.attached, model.anchor, [self.ids(2)[0].tolist()])[0]
        draw = torch.Generator(self.decoder.device).manual_seed(self.seed)

        def enlarged(like: Tensor) -> Tensor:
            if model.attached.by_attention:  # its heads' slots lie behind each other
                return _random(draw, like, len(like), like.shape[2], length, like.shape[3]).transpose(1, 2)
            return _random(draw, like, len(like), length, *like.shape[2:])

        tensors = {name: enlarged(like) for name, like in small.tensors.items()}
        places = None
        if small.places is not None:
            places = torch.arange(length, device=self.decoder.device) - length + len(model.anchor)
        return PreparedKnowledge.join([replace(small, tensors=tensors, position=length, places=places)] * copies)

    def cache(self, length: int) -> DynamicCache:
        """Return the decoder's cache as ``length`` tokens leave it, with random keys and values."""
        return random_cache(self.decoder, length, self.seed)

    def prefix(self, length: int, read: int = 0) -> DynamicCache:
        """Return the cache that ``length`` tokens of K leave behind the anchor, and ``read`` tokens of x."""
        return self.cache(len(self.anchor) + length + read)

    def bare(self, ids: Tensor) -> Way:
        """Return the decoder's own pass over ids [rows, columns]."""
        return lambda: self.decoder(input_ids=ids, use_cache=True, logits_to_keep=1)

    def seconds(self, what: str, ways: Mapping[str, Way]) -> Times:
        """Return the seconds of each way; see :func:`time_in_turn`."""
        return time_in_turn(ways, self.rounds, lambda done, total: self.progress(what, done, total))


def _random(draw: torch.Generator, like: Tensor, *shape: int) -> Tensor:
    return torch.randn(shape, generator=draw, device=like.device, dtype=like.dtype)


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


def static_cache(decoder: PreTrainedModel, cache: DynamicCache, room: int) -> StaticCache:
    """Return a cache of fixed size, which copies nothing as it grows, with ``room`` columns behind those of another."""
    layers: Any = cache.layers
    static = StaticCache(config=decoder.config, max_cache_len=cache.get_seq_length() + room)
    for number, layer in enumerate(layers):
        static.update(layer.keys, layer.values, number)
    return static


def llama2_7b_config(**sizes: Any) -> LlamaConfig:
    """Return LLaMA2-7B's shape; ``sizes`` differ from it."""
    shape: dict[str, Any] = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
    }
    return LlamaConfig(**{**shape, **sizes})


def llama2_7b() -> PreTrainedModel:
    """Return LLaMA2-7B's shape in bf16 without weights: on the device ``meta``, which only counts."""
    with torch.device("meta"):
        decoder: Any = LlamaForCausalLM(llama2_7b_config())
    shape: PreTrainedModel = decoder.to(torch.bfloat16).eval()
    return shape


def beside_llama2_7b(decoder: PreTrainedModel, name: str) -> Attached:
    """Return one of `BANKS` at its places in :func:`llama2_7b`, in bf16 and without weights."""
    shape, blocks = decoder.config, find_blocks(decoder)
    config = DiekaeConfig(**BANKS[name])
    size = shape.hidden_size // shape.num_attention_heads
    traits = {"heads": shape.num_attention_heads, "kv_heads": shape.num_key_value_heads}
    options = config.settled({**traits, "key_size": size, "value_size": size}).encoder_options
    layers = resolve_layers(config.layers, len(blocks))
    with torch.device("meta"):
        bank = Bank(config.encoder, options, layers, shape.hidden_size, shape.hidden_size).to(torch.bfloat16)
    points = {}
    for layer in layers:
        block: Any = blocks[layer]
        by_attention = config.site == "attention"
        points[layer] = Hookpoint(block, *((block.self_attn, (block.self_attn,)) if by_attention else (block, ())))
    return Attached(decoder, bank, points, {})
