"""Recipes on the command line: `--set`, and errors in a recipe."""

from pathlib import Path

import pytest

from cli_runs import error_of
from diekae.recipe import make_recipe, read_recipe


def test_set_changes_the_recipe(workspace: Path) -> None:
    path = workspace / "tiny.toml"
    recipe = read_recipe(path, ["training.epochs=3", "decoder=other", "data.test.1.limit=2", "diekae.layers=[1, 2]"])
    assert (recipe.stages[0].epochs, recipe.decoder, recipe.diekae.layers) == (3, "other", (1, 2))
    assert recipe.data["test"][1].limit == 2
    assert read_recipe(path, ["training.betas=[0.8, 0.9]"]).stages[0].betas == (0.8, 0.9)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.epochs", "key=value"),
        ("=3", "key=value"),
        ("training.batch_size=many", "batch_size='many' must be a whole number"),
        ("training.batch_size=0", "must be positive"),
        ("training.batch_size.x=1", "names no place"),
        ("data.test.7.limit=1", "names no place"),
        ("data.test.first.limit=1", "names no place"),
        ("data.test.0.limits=1", "limits"),
        ("data.test=[]", "no [[data.test]]"),
        ("trainings.epochs=1", "key 'trainings' is not known"),
        ("diekae.scope=everywhere", "scope='everywhere'"),
        ("diekae.encoder=readers", "Did you mean 'reader'"),
        ("diekae.encoder_options.size=3", "'size' is not known"),
        ("diekae.layers=every:0", "layers='every:0'"),
        ("preset=papers", "'paper'"),
        ("dtype=float8", "dtype='float8'"),
        ("training.objective=distil", "Did you mean 'distill'"),
    ],
)
def test_a_wrong_setting_raises_an_error_that_names_it(workspace: Path, setting: str, words: str) -> None:
    assert words in error_of("train", workspace / "tiny.toml", "--set", setting, "--out", workspace / "never")
    assert not (workspace / "never").exists()


def test_stages_must_be_tables(workspace: Path) -> None:
    assert "[[stage]]" in error_of("train", workspace / "tiny.toml", "--set", "stage=[]")
    assert "[[stage]]" in error_of("train", workspace / "tiny.toml", "--set", "stage=3")


@pytest.mark.parametrize("part", ["train", "validation"])
def test_unrelated_knowledge_is_refused_if_targets_are_trained(workspace: Path, part: str) -> None:
    def settings(objective: str) -> list[str]:
        return ["--set", f"data.{part}.0.unrelated=0.2", "--set", f"training.objective={objective}"]

    text = error_of("train", workspace / "tiny.toml", *settings("cross_entropy"), "--out", workspace / "never")
    assert f"[[data.{part}]] of 'jsonl' has unrelated=0.2" in text and "knowledge that does not hold it" in text
    assert not (workspace / "never").exists()
    for objective in ("difference", "distill"):
        assert read_recipe(workspace / "tiny.toml", settings(objective)[1::2]).data[part][0].unrelated == 0.2
    staged = (workspace / "tiny.toml").read_text() + '[[stage]]\n[[stage]]\nobjective = "cross_entropy"\n'
    (workspace / "two.toml").write_text(staged)
    assert "has unrelated=0.2" in error_of("train", workspace / "two.toml", "--set", f"data.{part}.0.unrelated=0.2")
    assert read_recipe(workspace / "two.toml", ["data.test.0.unrelated=0.2"]), "test data are not trained on"


def test_unknown_keys_inside_a_table_warn(workspace: Path) -> None:
    with pytest.warns(UserWarning, match="'epoch' is not known"):
        read_recipe(workspace / "tiny.toml", ["training.epoch=3"])
    with pytest.warns(UserWarning, match="'layer' is not known"):
        read_recipe(workspace / "tiny.toml", ["diekae.layer=3"])


def test_errors_in_recipes_are_explained(workspace: Path, tmp_path: Path) -> None:
    assert "no recipe at" in error_of("train", tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("decoder = [")
    assert "not TOML" in error_of("train", tmp_path / "bad.toml")
    with pytest.raises(ValueError, match=r"no \[\[data.train\]\]"):
        make_recipe({})
    text = error_of(
        "train", workspace / "tiny.toml", "--set", f"decoder={tmp_path / 'none'}", "--out", tmp_path / "run"
    )
    assert "cannot load a decoder" in text
    text = error_of("train", workspace / "tiny.toml", "--set", "data.train.0.source=json", "--out", tmp_path / "run")
    assert "Did you mean 'jsonl'" in text
