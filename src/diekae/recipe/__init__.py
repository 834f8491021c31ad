"""Recipes: complete runs as files, from raw data to a bank and its figures."""

from diekae.recipe.recipe import Recipe, make_recipe, read_recipe
from diekae.recipe.run import run_recipe

__all__ = ["Recipe", "make_recipe", "read_recipe", "run_recipe"]
