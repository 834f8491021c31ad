"""The configuration: what is refused and with which advice, which layers a choice names, and how it travels."""

import dataclasses
import json
import warnings
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from builders import make_decoder
from diekae import DiekaeConfig, DiekaeModel
from diekae.config import resolve_layers
from diekae.encoders import encoder_names

CHOICES = {name: get_args(hint) for name, hint in get_type_hints(DiekaeConfig).items() if get_origin(hint) is Literal}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": "raeder"}, "encoder='raeder' is not known.*reader, token.*Did you mean 'reader'"),
        ({"encoder_options": {"widht": 8}}, "'widht' is not known.*width, heads, .*mlp_width.*Did you mean 'width'"),
        ({"encoder": "token", "encoder_options": {"block": 8}}, "Did you mean 'blocks'"),
        ({"encoder_options": {"width": 10, "heads": 4}}, "heads must divide width"),
        ({"encoder_options": {"width": 0}}, "must be positive"),
        ({"encoder": "token", "encoder_options": {"width": 12, "heads": 4}}, "heads=4 of even size"),
        ({"site": "blocks"}, "site='blocks' is not known.*block, attention, mlp.*Did you mean 'block'"),
        ({"scope": "promt"}, "Did you mean 'prompt'"),
        ({"difference": "sequentail"}, "Did you mean 'sequential'"),
        ({"format": "xml"}, "choose one of plain, qa, chat"),
        ({"layers": "every"}, "layers='every' is not known; expected memit"),
        ({"layers": "every:0"}, "not known"),
        ({"layers": "every:x"}, "not known"),
        ({"layers": ()}, "names no layer"),
        ({"layers": (3, 3)}, "a layer twice"),
        ({"template": "Imagine"}, "must hold '{knowledge}' exactly once"),
        ({"template": "{knowledge} {knowledge}"}, "exactly once"),
        ({"difference": "independent", "rollout": "student"}, "needs difference='sequential'"),
    ],
)
def test_invalid_fields_are_refused_with_advice(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiekaeConfig(**fields)


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_accepted(name: str) -> None:
    for value in CHOICES[name]:
        assert getattr(DiekaeConfig(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("spec", "depth", "layers"),
    [
        ("every:3", 30, (2, 5, 8, 11, 14, 17, 20, 23, 26, 29)),
        ("every:1", 3, (0, 1, 2)),
        ("every:4", 4, (3,)),
        ("all", 4, (0, 1, 2, 3)),
        ("memit", 32, (3, 4, 5, 6, 7, 8)),
        ("memit:scaled", 32, (3, 4, 5, 6, 7, 8)),
        ("memit:scaled", 63, (6, 8, 10, 12, 14, 16)),
        ("memit:scaled", 4, (0, 1)),
        ((5, 0, 2), 6, (0, 2, 5)),
        ([1], 2, (1,)),
    ],
)
def test_layers_are_resolved(spec: str | tuple[int, ...], depth: int, layers: tuple[int, ...]) -> None:
    assert resolve_layers(spec, depth) == layers


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("memit", "layer 8, but the decoder has layers 0 to 3.*'memit:scaled'"),
        ((0, 4), "layer 4, but the decoder has layers 0 to 3"),
        ((-1, 2), "layer -1"),
        ("every:5", "names no layer"),
    ],
)
def test_layers_that_the_decoder_lacks_are_refused(spec: str | tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiekaeModel(make_decoder(), DiekaeConfig(layers=spec))


@pytest.mark.parametrize(
    "config",
    [
        DiekaeConfig(),
        DiekaeConfig.preset("paper"),
        DiekaeConfig(layers=(4, 1), encoder="token", encoder_options={"blocks": 2}, scope="prompt", normalize=False),
    ],
)
def test_a_configuration_survives_json(config: DiekaeConfig) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert DiekaeConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_every_field_is_written() -> None:
    assert set(DiekaeConfig().to_dict()) == {field.name for field in dataclasses.fields(DiekaeConfig)}
    assert DiekaeConfig(encoder_options={"width": 64}).to_dict()["encoder_options"] == {
        "width": 64,
        "heads": 8,
        "kv_heads": None,
        "skip_width": None,
        "mlp_width": 256,
    }, "defaults are written out, so that a later version's other defaults change no saved bank"


def test_unknown_keys_are_ignored_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="'sites' is not known and is ignored. Did you mean 'site'"):
        config = DiekaeConfig.from_dict({"sites": "mlp", "scope": "prompt"})
    assert config == DiekaeConfig(scope="prompt")


def test_presets_can_be_changed_and_unknown_ones_are_refused() -> None:
    paper = DiekaeConfig.preset("paper")
    assert (paper.layers, paper.encoder, paper.difference, paper.scope, paper.anchor, paper.normalize) == (
        "memit",
        "token",
        "independent",
        "prompt",
        "own",
        False,
    )
    assert dict(paper.encoder_options) == {
        "width": 128,
        "blocks": 4,
        "heads": 32,
        "mlp_width": 512,
        "rope_theta": 10000.0,
        "identity_start": False,
    }
    assert DiekaeConfig.preset("paper", layers="all").layers == "all"
    assert DiekaeConfig.preset("default") == DiekaeConfig()
    with pytest.raises(
        ValueError, match="'papre' is not known; choose one of default, attention, exact, paper.*Did you mean 'paper'"
    ):
        DiekaeConfig.preset("papre")


def test_the_attention_encoder_has_one_site_and_one_difference() -> None:
    exact = DiekaeConfig.preset("exact")
    assert (exact.layers, exact.encoder, exact.site, exact.format) == ("all", "attention", "attention", "qa")
    assert (exact.encoder_options["rank"], exact.encoder_options["mlp_width"]) == (0, 0), "nothing to train"
    for changes, message in (
        (
            {"site": "block"},
            "is read by the decoder's attention, so site='block' is not possible; use site='attention'",
        ),
        ({"difference": "independent"}, "difference='independent' needs encoder='reader' or 'token'"),
        ({"encoder_options": {"kv_heads": 3, "heads": 4}}, "kv_heads must divide heads"),
    ):
        with pytest.raises(ValueError, match=message):
            DiekaeConfig.preset("attention", **changes)


def test_missing_sizes_are_taken_from_the_decoder() -> None:
    config = DiekaeConfig.preset("attention", encoder_options={"kv_heads": 2})
    resolved = config.resolve_sizes({"heads": 4, "kv_heads": 4, "key_size": 8, "value_size": 6})
    expected = {"heads": 4, "kv_heads": 2, "key_size": 8, "value_size": 6, "rank": None, "mlp_width": 64}
    assert dict(resolved.encoder_options) == expected
    assert resolved.resolve_sizes({"heads": 8}) == resolved, "what is known stays"
    reader = DiekaeConfig()
    assert reader.resolve_sizes({"heads": 4}) is reader


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DiekaeConfig().scope = "prompt"  # type: ignore[misc]


def test_the_names_of_the_encoders() -> None:
    assert encoder_names() == ["attention", "reader", "token"]
