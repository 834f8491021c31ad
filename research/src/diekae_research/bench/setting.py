"""What every benchmark shares: the decoder, random banks, prepared knowledge and caches, a clock, rows of results.

Speed depends on nothing learned, so banks, prepared knowledge and caches hold random numbers, and a long K need not be
read. But a bank that changes nothing could do less work, so parameters that start at zero are made random too.

Every way answers the same question: D(x) and our banks read anchor and x. A cached prefix holds anchor and K, and the
decoder reads x alone. All ways keep a cache, and the head runs at the last column only.

Shapes: N encoders, S slots, B rows, T columns, a tokens of the anchor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

from diekae.checkpoint import load_bank
from diekae.config import DiekaeConfig
from diekae.fingerprint import window
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.prepare import read_documents
from diekae.progress import Progress, silent
from diekae.run.timing import TimedCall, Times, time_in_turn

_ATTENTION = {"encoder": "attention", "site": "attention"}
BANKS: dict[str, dict[str, Any]] = {
    "token": {"encoder": "token", "layers": "memit", "scope": "prompt"},
    "reader": {"encoder": "reader", "layers": "every:3"},
    "attention": {**_ATTENTION, "layers": "every:2"},
    "exact": {**_ATTENTION, "layers": "all", "encoder_options": {"rank": 0, "mlp_width": 0}},
}
"""Configurations of the random banks: the paper's encoder in its six layers, and ours."""
USER_BANK = "bank"
"""Name of the bank that the caller adds to those."""
SPARE_COLUMNS = 16
"""Columns of the window that are left for generated tokens."""


@dataclass
class Comparison:
    """One row of a benchmark's result."""

    name: str
    """What is compared."""
    aim: float | None
    """The figure aimed at; None without an aim."""
    figure: float | None
    """The measured figure; None if it was not measured."""
    floor: float | None = None
    """The same ratio by the operations or bytes that any machine must do; None if it was not counted."""
    at_least: bool = False
    """Whether more is better."""
    note: str = ""
    """Sizes, and how the floor was counted."""

    @property
    def reached(self) -> bool | None:
        """Tell whether the aim is reached; None without an aim or a figure."""
        if self.aim is None or self.figure is None:
            return None
        return self.figure >= self.aim if self.at_least else self.figure <= self.aim

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "reached": self.reached}


@dataclass
class Bench:
    """What is measured, and for how long."""

    decoder: PreTrainedModel
    """The frozen decoder."""
    layers: Mapping[str, Any] = field(default_factory=dict)
    """Layers of a bank by its name, where they differ from `BANKS` (tests with shallow decoders)."""
    lengths: Sequence[int] = (32, 128, 512, 1024, 2048, 4096, 8000)
    """|K| in tokens; lengths beyond the decoder's window are left out."""
    inputs: int = 32
    """|x| in tokens, without the anchor."""
    rounds: int = 7
    """How often each way is timed, in turn with the others, after one round to warm up."""
    seed: int = 0
    """Seed of all random numbers."""
    progress: Progress = silent
    """Called with the progress."""
    bank: str | Path | None = None
    """Folder of a bank for this decoder, or the name of a shipped one; it is measured beside `BANKS`."""
    others: Sequence[str] = ("token", "reader")
    """Which of `BANKS` are measured besides :attr:`ours`."""
    header: int | None = None
    """Tokens of the anchor, as of the header of a chat; those of the user's bank, or one, if None."""
    _models: dict[str, DiekaeModel] = field(default_factory=dict)

    @property
    def ours(self) -> tuple[str, ...]:
        """Return the banks that have aims against a cached prefix."""
        return ("exact", "attention", *([USER_BANK] if self.bank is not None else []))

    @property
    def names(self) -> tuple[str, ...]:
        """Return all banks that are measured."""
        return (*self.others, *self.ours)

    @cached_property
    def anchor(self) -> tuple[int, ...]:
        """Return the tokens that every run begins with."""
        if self.header is not None:
            return tuple(self.ids(self.header)[0].tolist())
        return (1,) if self.bank is None else load_bank(Path(self.bank)).anchor

    @property
    def room(self) -> int:
        """Return the longest K that fits the window."""
        return window(self.decoder) - len(self.anchor) - self.inputs - SPARE_COLUMNS

    @property
    def has_static_cache(self) -> bool:
        """Tell whether a cache of fixed size is measured too."""
        return bool(self.decoder.config.get_text_config(decoder=True).model_type == "llama")

    def fitting_lengths(self, longest: int | None = None) -> list[int]:
        """Return the lengths of K that fit the window and are at most ``longest``."""
        return [length for length in self.lengths if length <= min(self.room, longest or self.room)]

    def model(self, name: str, **options: Any) -> DiekaeModel:
        """Return the decoder with a bank: the user's, or a random one of `BANKS` with other ``options``."""
        key = f"{name} {sorted(options.items())}"
        if key not in self._models:
            self._models[key] = self._user_model() if name == USER_BANK else self._random_model(name, options)
        return self._models[key]

    def _user_model(self) -> DiekaeModel:
        assert self.bank is not None, "the user's bank is measured only if there is one"
        model = DiekaeModel.from_pretrained(self.bank, self.decoder).eval()
        model.anchor = self.anchor
        return model

    @torch.no_grad()
    def _random_model(self, name: str, options: Mapping[str, Any]) -> DiekaeModel:
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
        generator = torch.Generator().manual_seed(self.seed + length)
        vocabulary = self.decoder.config.get_text_config(decoder=True).vocab_size
        return torch.randint(4, vocabulary, (rows, length), generator=generator).to(self.decoder.device)

    def question(self, length: int | None = None, rows: int = 1) -> Tensor:
        """Return anchor and x, int64 [rows, a + length]; None is :attr:`inputs` tokens of x."""
        anchor = torch.tensor([self.anchor], device=self.decoder.device).expand(rows, -1)
        return torch.cat([anchor, self.ids(length or self.inputs, rows)], dim=1)

    def prepared(self, model: DiekaeModel, length: int) -> PreparedKnowledge:
        """Return random prepared knowledge in the form that ``length`` tokens of K have."""
        pattern = read_documents(model.attached, model.anchor, [self.ids(2)[0].tolist()])[0]
        generator = torch.Generator(self.decoder.device).manual_seed(self.seed)

        def enlarge(tensor: Tensor) -> Tensor:
            options: dict[str, Any] = {"generator": generator, "device": tensor.device, "dtype": tensor.dtype}
            encoders, _, *rest = tensor.shape
            if not model.attached.by_attention:
                return torch.randn(encoders, length, *rest, **options)
            heads, size = rest
            return torch.randn(encoders, heads, length, size, **options).transpose(1, 2)  # stored head by head

        tensors = {name: enlarge(tensor) for name, tensor in pattern.tensors.items()}
        positions = None
        if pattern.positions is not None:
            positions = torch.arange(length, device=self.decoder.device) - length + len(model.anchor)
        return replace(pattern, tensors=tensors, token_count=length, positions=positions)

    def prefix(self, length: int, inputs: int = 0) -> DynamicCache:
        """Return the random cache of anchor, ``length`` tokens of K and ``inputs`` tokens of x."""
        return random_cache(self.decoder, len(self.anchor) + length + inputs, self.seed)

    def bare(self, ids: Tensor) -> TimedCall:
        """Return the decoder's own pass over ids, int64 [rows, columns]."""
        return lambda: self.decoder(input_ids=ids, use_cache=True, logits_to_keep=1)

    def seconds(self, label: str, ways: Mapping[str, TimedCall]) -> Times:
        """Return the seconds of each way; see :func:`time_in_turn`."""
        return time_in_turn(ways, self.rounds, lambda done, total: self.progress(label, done, total))


def random_cache(decoder: PreTrainedModel, length: int, seed: int = 0) -> DynamicCache:
    """Return a random cache of ``length`` columns for a decoder with attention in every layer."""
    config = decoder.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = DynamicCache(config=decoder.config)
    generator = None if decoder.device.type == "meta" else torch.Generator(decoder.device).manual_seed(seed)
    options: dict[str, Any] = {"generator": generator, "device": decoder.device, "dtype": decoder.dtype}
    for layer in range(config.num_hidden_layers):
        keys = torch.randn(1, heads, length, size, **options)
        values = torch.randn(1, heads, length, size, **options)
        cache.update(keys, values, layer)
    return cache


def static_cache(decoder: PreTrainedModel, cache: DynamicCache, room: int) -> StaticCache:
    """Copy a cache into one of fixed size, which copies nothing as it grows, with ``room`` free columns."""
    layers: Any = cache.layers
    static = StaticCache(config=decoder.config, max_cache_len=cache.get_seq_length() + room)
    for number, layer in enumerate(layers):
        static.update(layer.keys, layer.values, number)
    return static


def against_cached_prefix(
    bench: Bench, title: str, times: Times, name: str, *, aim: float | None, floor: float, note: str, static: bool
) -> list[Comparison]:
    """Compare one bank with a cached prefix: in the cache that grows, and if ``static`` in one of fixed size too."""
    growing = times.ratio(name, "prompted_cached")
    rows = [Comparison(title, aim, growing, floor, note=f"{note}; a growing cache, as in `generate`")]
    if static and bench.has_static_cache:
        ratio = times.ratio(name, "prompted_static")
        rows.append(Comparison(f"{title} of fixed size", None, ratio, floor, note=f"{note}; `StaticCache`"))
    return rows
