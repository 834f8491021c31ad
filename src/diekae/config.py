"""The configuration of a bank: every choice that changes what its encoders are, read or learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from diekae.data.formats import Format
from diekae.encoders import encoder_class
from diekae.fields import check_choice, check_types, known_fields

Scope = Literal["all", "prompt"]
Anchor = Literal["shared", "own"]
MEMIT_LAYERS = (3, 4, 5, 6, 7, 8)
"""MEMIT's layers, which the paper took over (section 5)."""
MEMIT_DEPTH = 32
"""Number of layers of LLaMA2-7B, the decoder that `MEMIT_LAYERS` were chosen for."""


@dataclass(frozen=True)
class DiekaeConfig:
    """What a bank is and what it learns.

    Example:
        >>> DiekaeConfig(layers="every:2", encoder="attention", site="attention")
        >>> DiekaeConfig.preset("paper", layers="all")
    """

    layers: str | tuple[int, ...] = "every:3"
    """Decoder layers that receive a difference: ``all``; ``every:k`` (layers k-1, 2k-1, …); ``memit`` (layers 3 to 8);
    ``memit:scaled`` (layers 3 to 8 of 32, scaled to the decoder's depth); or layer numbers, counted from 0."""

    encoder: str = "reader"
    """Name of the encoder. ``attention``: the decoder's own attention reads keys and values of K. ``reader``: attention
    of its own over the decoder's hidden states of K. ``token``: the paper's small transformer over token embeddings."""

    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the encoder (width, heads, …). Missing options take the encoder's defaults."""

    site: Literal["block", "attention", "mlp"] = "block"
    """Module whose output receives the difference: the whole ``block``, or its ``attention`` or ``mlp``."""

    difference: Literal["sequential", "independent"] = "sequential"
    """What the encoder of a layer learns. ``sequential``: the difference that remains after the injections in the
    layers below. ``independent``: o(K, x) - o(x), as in the paper."""

    rollout: Literal["teacher", "student"] = "teacher"
    """Hidden states that a layer receives during training: those of the run with knowledge (``teacher``) or those of
    the injected run (``student``)."""

    scope: Scope = "all"
    """Positions that receive differences: the positions of the ``prompt`` alone, as in the paper's code, or ``all``,
    including generated tokens."""

    anchor: Anchor = "shared"
    """``shared``: both runs begin with the same tokens, which hold the attention sink. ``own``: x keeps its own anchor
    after K, as in the paper."""

    template: str = "Imagine that {{knowledge}}\n"
    """Text around K, with ``{knowledge}`` in it exactly once. The default keeps the paper's braces:
    ``Imagine that {…}``."""

    format: Format = "plain"
    """Default text around x and y: ``plain`` (x, a space, y), ``qa`` (Question: x / Answer: y) or ``chat`` (the
    tokenizer's chat template)."""

    system: str | None = None
    """System prompt of chats that have none; the chat template's default if None. K comes after it."""

    normalize: bool = True
    """Whether to centre and scale each layer's differences by statistics of the first training batches."""

    def __post_init__(self) -> None:
        """Check every field, and that no two exclude each other (ValueError)."""
        check_types(type(self), vars(self))
        if not isinstance(self.layers, str):
            object.__setattr__(self, "layers", tuple(int(layer) for layer in self.layers))
        resolve_layers(self.layers, None)
        if self.template.count("{knowledge}") != 1:
            raise ValueError(f"template={self.template!r} must hold '{{knowledge}}' exactly once.")
        self._check_differences()
        options = encoder_class(self.encoder).make_options(self.encoder_options)
        object.__setattr__(self, "encoder_options", dataclasses.asdict(options))

    def _check_differences(self) -> None:
        """Check that site, difference and rollout fit the encoder and each other."""
        if self.difference == "independent" and self.rollout == "student":
            raise ValueError("rollout='student' needs difference='sequential', not 'independent'.")
        if encoder_class(self.encoder).reads != "attention":
            return
        if self.site != "attention":
            raise ValueError(
                f"encoder={self.encoder!r} is read by the decoder's attention, so site={self.site!r} is not possible; "
                "use site='attention'."
            )
        if self.difference != "sequential":
            raise ValueError(
                f"encoder={self.encoder!r} is read by the decoder as it runs, so its differences are sequential; "
                f"difference={self.difference!r} needs encoder='reader' or 'token'."
            )

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> DiekaeConfig:
        """Return a named configuration.

        Args:
            name: ``default``; ``attention``: the decoder's own attention reads K in every second layer; ``exact``: it
                reads K in all layers, and nothing is trained; ``paper``: the paper's configuration (sections 3 and 5,
                and its published code).
            **overrides: Fields that differ from the preset.

        Raises:
            ValueError: The preset is not known.
        """
        check_choice(f"preset {name!r}", name, PRESETS)
        return cls.from_dict({**PRESETS[name], **overrides})

    def resolve_sizes(self, sizes: Mapping[str, Any]) -> DiekaeConfig:
        """Return the configuration with the encoder's sizes that are None taken from the decoder's attention.

        They are ``heads``, ``kv_heads``, ``key_size`` and ``value_size`` of the encoder ``attention``.
        """
        if encoder_class(self.encoder).reads != "attention":
            return self
        missing = {name: size for name, size in sizes.items() if self.encoder_options[name] is None}
        return dataclasses.replace(self, encoder_options={**self.encoder_options, **missing}) if missing else self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DiekaeConfig:
        """Build from a mapping, such as a recipe's or that of ``config.json``. Unknown keys are ignored with a warning.

        Raises:
            ValueError: A value is not valid, or the values are not a mapping.
        """
        return cls(**known_fields(cls, values, "Configuration"))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, which :meth:`from_dict` reads back."""
        values = dataclasses.asdict(self)
        values["layers"] = self.layers if isinstance(self.layers, str) else list(self.layers)
        return values


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "attention": {"layers": "every:2", "encoder": "attention", "site": "attention"},
    "exact": {
        "layers": "all",
        "encoder": "attention",
        "encoder_options": {"rank": 0, "mlp_width": 0},
        "site": "attention",
        "template": "Context: {knowledge}\n\n",
        "format": "qa",
    },
    "paper": {
        "layers": "memit",
        "encoder": "token",
        "encoder_options": {"heads": 32, "identity_start": False},
        "site": "block",
        "difference": "independent",
        "scope": "prompt",
        "anchor": "own",
        "normalize": False,
    },
}
"""Fields of the named configurations, by name; missing fields keep their defaults."""


def resolve_layers(spec: str | Sequence[int], depth: int | None) -> tuple[int, ...]:
    """Turn :attr:`DiekaeConfig.layers` into sorted layer numbers; without a depth, only check the spelling.

    Raises:
        ValueError: The choice is misspelt, or the decoder lacks a layer.
    """
    layers = _named_layers(spec, depth) if isinstance(spec, str) else sorted(spec)
    if not layers:
        raise ValueError(f"layers={spec!r} names no layer; expected distinct numbers.")
    if len(set(layers)) != len(layers):
        raise ValueError(f"layers={spec!r} names a layer twice; expected distinct numbers.")
    if depth is not None and (layers[0] < 0 or layers[-1] >= depth):
        raise ValueError(
            f"layers={spec!r} names layer {layers[0] if layers[0] < 0 else layers[-1]}, but the decoder has layers "
            f"0 to {depth - 1}; choose among those, or 'memit:scaled'."
        )
    return tuple(layers)


def _named_layers(spec: str, depth: int | None) -> list[int]:
    """Return the layers of a named choice; without a depth, some valid layer numbers."""
    kind, _, step = spec.partition(":")
    if spec == "memit":
        return list(MEMIT_LAYERS)
    if spec == "memit:scaled":
        last = (depth or MEMIT_DEPTH) - 1
        return sorted({round(layer * last / (MEMIT_DEPTH - 1)) for layer in MEMIT_LAYERS})
    if spec == "all":
        return list(range(depth or 1))
    if kind == "every" and step.isdigit() and int(step) > 0:
        return [0] if depth is None else list(range(int(step) - 1, depth, int(step)))
    raise ValueError(
        f"layers={spec!r} is not known; expected memit, memit:scaled, all, every:k or a list of layer numbers."
    )
