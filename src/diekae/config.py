"""The configuration of a bank: every choice that changes what its encoders are, read or are regressed on."""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diekae.data.prompt import FORMATS
from diekae.encoders import encoder_class, encoder_names

CHOICES: dict[str, tuple[str, ...]] = {
    "site": ("block", "attention", "mlp"),
    "difference": ("sequential", "independent"),
    "rollout": ("teacher", "student"),
    "scope": ("all", "prompt"),
    "anchor": ("shared", "own"),
    "format": FORMATS,
}
MEMIT_LAYERS = (3, 4, 5, 6, 7, 8)
MEMIT_DEPTH = 32
"""Depth of LLaMA2-7B, for which the paper took over MEMIT's layers (paper, section 5)."""


@dataclass(frozen=True)
class DiekaeConfig:
    """What a bank is, and what it learns (design: one configuration, validated where it is built)."""

    layers: str | tuple[int, ...] = "every:3"
    """Decoder layers that receive a difference: ``memit`` (3–8), ``memit:scaled`` (3–8 of 32, scaled to the decoder's
    depth), ``all``, ``every:K`` (layers K-1, 2K-1, …), or explicit layer numbers, from 0."""

    encoder: str = "reader"
    """``attention``: the decoder's own attention reads K's keys and values; ``reader`` asks the decoder's own states of
    K; ``token`` is the paper's small transformer."""

    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    """Sizes of the encoder (width, heads, …); what is not named keeps the encoder's default."""

    site: str = "block"
    """Whose output receives the difference: the ``block``'s, or its ``attention``'s or ``mlp``'s."""

    difference: str = "sequential"
    """``sequential``: what is still missing after the injections below. ``independent``: o(K,x) - o(x), the paper's."""

    rollout: str = "teacher"
    """States below a layer during training: the run with knowledge (``teacher``), or the injected run (``student``)."""

    scope: str = "all"
    """Positions that receive: the ``prompt``'s alone (as the paper's code), or ``all``, generated tokens too."""

    anchor: str = "shared"
    """``shared``: both runs begin with the same tokens, which hold the attention sink. ``own``: x keeps its own copy
    after K, as in the paper."""

    template: str = "Imagine that {{knowledge}}\n"
    """Text around K; ``{knowledge}`` is replaced. The default keeps the paper's braces: ``Imagine that {…}``."""

    format: str = "plain"
    """Default text around x: ``plain`` (x, a space, y), ``qa`` (Question: x / Answer: y) or ``chat`` (the decoder's
    chat template)."""

    system: str | None = None
    """System prompt of chats that bring none of their own; the template's if None. K stands behind it."""

    normalize: bool = True
    """Scale and centre the differences of each layer by statistics of the first batches."""

    def __post_init__(self) -> None:
        """Check every field, so that a wrong one fails where it is written.

        Raises:
            ValueError: A field has an unknown value.
        """
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(
                    f"{name}={value!r} is not known; choose one of {', '.join(choices)}.{_near(value, choices)}"
                )
        if not isinstance(self.encoder, str):
            raise ValueError(f"encoder={self.encoder!r} must be a name; choose one of {', '.join(encoder_names())}.")
        if not isinstance(self.layers, str | Sequence):
            raise ValueError(f"layers={self.layers!r} must be a text or a list of layer numbers, such as [3, 6].")
        if not isinstance(self.layers, str):
            object.__setattr__(self, "layers", tuple(int(layer) for layer in self.layers))
        resolve_layers(self.layers, None)
        if self.template.count("{knowledge}") != 1:
            raise ValueError(f"template={self.template!r} must hold '{{knowledge}}' exactly once.")
        if self.difference == "independent" and self.rollout == "student":
            raise ValueError("rollout='student' needs difference='sequential'; independent differences have none.")
        if encoder_class(self.encoder).reads == "attention":
            if self.site != "attention":
                raise ValueError(
                    f"encoder={self.encoder!r} is read by the decoder's attention, so site={self.site!r} cannot be; "
                    "use site='attention'."
                )
            if self.difference != "sequential":
                raise ValueError(
                    f"encoder={self.encoder!r} is read by the decoder as it runs, so its differences are sequential; "
                    f"difference={self.difference!r} needs encoder='reader' or 'token'."
                )
        options = encoder_class(self.encoder).make_options(self.encoder_options)
        object.__setattr__(self, "encoder_options", dataclasses.asdict(options))

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> DiekaeConfig:
        """Build a named configuration; ``paper`` is the paper's own (sections 3 and 5, and its published code).

        Args:
            name: ``paper``, ``default``, ``attention``: read by the decoder's own attention, in every second layer; or
                ``exact``: in all of them, with nothing to train.
            **overrides: Fields that differ from the preset.

        Raises:
            ValueError: The preset is not known.
        """
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is not known; choose one of {', '.join(PRESETS)}.{_near(name, PRESETS)}")
        return cls.from_dict({**PRESETS[name], **overrides})

    def settled(self, traits: Mapping[str, Any]) -> DiekaeConfig:
        """Return the configuration for a decoder whose attention has these traits: its sizes where ours say none."""
        kind = encoder_class(self.encoder)
        changes = kind.settle(kind.make_options(self.encoder_options), traits)
        return dataclasses.replace(self, encoder_options={**self.encoder_options, **changes}) if changes else self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DiekaeConfig:
        """Build from a mapping (a recipe, or ``config.json``); keys of newer versions warn and are left out."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = [key for key in values if key not in known]
        for key in unknown:
            warnings.warn(f"Configuration key {key!r} is not known and is ignored.{_near(key, known)}", stacklevel=2)
        return cls(**{key: value for key, value in values.items() if key in known})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, which :meth:`from_dict` reads back."""
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


def resolve_layers(spec: str | Sequence[int], depth: int | None) -> tuple[int, ...]:
    """Turn a layer choice into sorted layer numbers.

    Args:
        spec: As :attr:`DiekaeConfig.layers`.
        depth: Number of decoder blocks; None checks the spelling only.

    Raises:
        ValueError: The spelling is unknown, or a layer does not exist in the decoder.
    """
    if isinstance(spec, str):
        kind, _, argument = spec.partition(":")
        if spec == "memit":
            layers: list[int] = list(MEMIT_LAYERS)
        elif spec == "memit:scaled":
            layers = sorted({round(layer * ((depth or MEMIT_DEPTH) - 1) / (MEMIT_DEPTH - 1)) for layer in MEMIT_LAYERS})
        elif spec == "all":
            layers = list(range(depth or 1))
        elif kind == "every" and argument.isdigit() and int(argument) > 0:
            layers = list(range(int(argument) - 1, depth, int(argument))) if depth is not None else [0]
        else:
            raise ValueError(
                f"layers={spec!r} is not known; expected memit, memit:scaled, all, every:K or a list of numbers."
            )
    else:
        layers = sorted(spec)
    if not layers or len(set(layers)) != len(layers):
        raise ValueError(
            f"layers={spec!r} names {'no layer' if not layers else 'a layer twice'}; expected distinct numbers."
        )
    if depth is not None and (layers[0] < 0 or layers[-1] >= depth):
        raise ValueError(
            f"layers={spec!r} names layer {layers[0] if layers[0] < 0 else layers[-1]}, but the decoder has layers "
            f"0 to {depth - 1}; choose among those, or 'memit:scaled'."
        )
    return tuple(layers)


def _near(value: object, choices: Any) -> str:
    """Return a hint that names the nearest valid spelling, or nothing."""
    near = difflib.get_close_matches(str(value), list(choices), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
