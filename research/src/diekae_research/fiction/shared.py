"""The TOML files of this package: one a kind in `kinds/`, and `shared.toml` for what all kinds share."""

import tomllib
from importlib.resources import files
from typing import Any


def read_toml(path: str) -> dict[str, Any]:
    """Return the content of a TOML file, whose `path` is relative to this package."""
    return tomllib.loads(files("diekae_research.fiction").joinpath(path).read_text(encoding="utf-8"))


SHARED = read_toml("shared.toml")
