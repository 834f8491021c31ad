"""Recipes and configurations with arbitrary values: they are accepted, or refused by a sentence that names the key."""

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import SMALL, make_decoder, make_model
from diekae import DiekaeConfig, DiekaeModel
from diekae.checkpoint import CONFIG_NAME
from diekae.encoders import encoder_class, encoder_names
from diekae.recipe import make_recipe, read_recipe
from diekae.training.config import TrainingConfig

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "decoder": "smollm2",
    "dtype": "fp32",
    "device": "cpu",
    "folder": "data",
    "preset": "default",
    "diekae": {"layers": "every:2", "encoder": "reader", "encoder_options": {"width": 16, "heads": 2}},
    "training": {"epochs": 1.0, "batch_size": 8, "betas": [0.9, 0.95], "cache": "cache", "objective": "difference"},
    "stage": [{"epochs": 2}, {"objective": "distill", "whole_input": True}],
    "data": {
        "train": [{"source": "jsonl", "folder": "a", "limit": 3, "options": {"x": 1}, "weight": 1.0}],
        "validation": [{"source": "jsonl", "split": "validation", "longest": 9, "format": "qa"}],
        "test": [{"source": "jsonl", "unrelated": 0.5, "among": 4, "apart": 0.5}],
    },
}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.sampled_from([10**9, 2**31, 2**63, 10**400]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["all", "every:2", "chat", "cpu", "cuda:99", "..", "a/b", "\x00", "token", "attention", "{knowledge}"]
    ),
    st.dates(),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def paths_of(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places in nested tables and lists."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in pairs for place in [(*path, key), *paths_of(value, (*path, key))]]


def changed(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at one place."""
    tree = copy.deepcopy(tree)
    table = tree
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    return tree


def check(call: Callable[[], Any], *names: Any) -> None:
    """Make a call, which may refuse its values in a sentence with one of these names in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except (ValueError, OSError) as error:
            assert any(str(name) in str(error) for name in names), f"{error} names none of {names}"
            assert len(str(error)) < 2000


@MANY
@given(path=st.sampled_from(paths_of(RECIPE)), value=VALUES)
def test_a_changed_recipe_is_accepted_or_refused(path: tuple[Any, ...], value: Any) -> None:
    # Some rules are about two keys, such as the encoder and its options.
    check(lambda: make_recipe(changed(RECIPE, path, value)), *(key for key in path if isinstance(key, str)), "apart")


@MANY
@given(key=st.text(max_size=6), value=VALUES, place=st.sampled_from(["", "diekae", "training", "data"]))
def test_an_unknown_key_is_named(key: str, value: Any, place: str) -> None:
    path = (place, key) if place else (key,)
    check(lambda: make_recipe(changed(RECIPE, path, value)), repr(key), key)


@MANY
@given(content=st.binary(max_size=40), start=st.integers(0, 200))
def test_a_damaged_recipe_file_is_named(tmp_path_factory: Any, content: bytes, start: int) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.toml"
    text = b'decoder = "smollm2"\n[diekae]\nlayers = "all"\n[training]\nepochs = 2\n'
    text += (
        b'[[data.train]]\nsource = "jsonl"\n[[data.validation]]\nsource = "jsonl"\n[[data.test]]\nsource = "jsonl"\n'
    )
    path.write_bytes(text[:start] + content + text[start + len(content) :])
    check(lambda: read_recipe(path), path)


@pytest.mark.parametrize("text", ["x = " + "[" * 100_000, "x = " + "9" * 5000, "a." * 5000 + "b = 1", "\udcff"])
def test_recipe_files_that_no_parser_likes_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match="bad.toml"):
        read_recipe(tmp_path / "bad.toml")


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".", "", " ", "a\\b", "a\x00", "a\nb", "x" * 101, 3])
def test_a_recipe_s_name_cannot_leave_the_folder_of_runs(name: Any) -> None:
    with pytest.raises(ValueError, match="name="):
        make_recipe({**RECIPE, "name": name})
    assert make_recipe({**RECIPE, "name": "SmolLM2 – 10 Schichten, v1.5"}).name.startswith("SmolLM2")


@MANY
@given(data=st.data())
@pytest.mark.parametrize("kind", [DiekaeConfig, TrainingConfig])
def test_a_changed_configuration_is_accepted_or_refused(kind: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(kind.__dataclass_fields__)))
    value = data.draw(VALUES)
    check(lambda: kind.from_dict({name: value}), name, "encoder option")
    check(lambda: kind.from_dict(value), "configuration", "training")


@MANY
@given(data=st.data())
@pytest.mark.parametrize("encoder", encoder_names())
def test_changed_options_of_an_encoder_are_accepted_or_refused(encoder: str, data: st.DataObject) -> None:
    kind = encoder_class(encoder)
    name = data.draw(st.sampled_from(sorted(kind.options.__dataclass_fields__)))
    check(lambda: kind.make_options({name: data.draw(VALUES)}), name, encoder)


JSON_VALUES = st.recursive(
    SCALARS.filter(lambda value: not hasattr(value, "year")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: Any) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("bank")
    make_model("reader", layers=(1, 2), encoder_options=SMALL["reader"]).save_pretrained(folder)
    return folder, json.loads((folder / CONFIG_NAME).read_text())


@MANY
@given(data=st.data())
def test_a_changed_description_of_a_bank_is_accepted_or_refused(bank: Any, data: st.DataObject) -> None:
    folder, description = bank
    path = data.draw(st.sampled_from(paths_of(description)))
    text = json.dumps(changed(description, path, data.draw(JSON_VALUES)))
    (folder / CONFIG_NAME).write_text(text)
    try:
        check(lambda: DiekaeModel.from_pretrained(folder, make_decoder()), folder.name, *path, "tensors", "encoder")
    finally:
        (folder / CONFIG_NAME).write_text(json.dumps(description))
