"""The recipes that come with the repository are read without a warning, and ask for nothing that is refused."""

import warnings
from pathlib import Path

import pytest

import diekae
from diekae.encoders import encoder_class
from diekae.recipe import Recipe, read_recipe

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = [*sorted(FOLDER.glob("*.toml")), Path(diekae.__file__).parent / "demo" / "demo.toml"]


def read(path: Path) -> Recipe:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of keys that nothing reads
        return read_recipe(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_and_has_no_cache_that_would_be_refused(path: Path) -> None:
    recipe = read(path)
    assert recipe.name == path.stem
    apart = any(spec.apart for specs in recipe.data.values() for spec in specs)
    reads = encoder_class(recipe.diekae.encoder).reads if recipe.diekae else None
    for stage in recipe.stages:
        if stage.cache:
            assert not apart, "documents that are prepared apart cannot be cached"
            assert reads != "attention" or stage.objective != "difference", "these change as the decoder runs"
            assert reads != "embeddings" or stage.objective != "cross_entropy", "nothing is saved"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_bank_that_is_gone_on_from_is_made_by_another_recipe(path: Path) -> None:
    bank = read(path).bank
    assert bank is None or f"{Path(bank).parent.name}.toml" in {other.name for other in RECIPES}
