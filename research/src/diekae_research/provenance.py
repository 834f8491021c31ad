"""Provenance of research results: the library's, and a digest of the research code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diekae import provenance as library
from diekae.provenance import digest, name_of

__all__ = ["code_digest", "digest", "key_of", "name_of", "provenance", "write_json"]
SUFFIXES = (".py", ".toml", ".json")
"""Endings of source files: code, templates of fiction, and documents with their questions."""


def code_digest() -> str:
    """Return a digest of the source files of this package."""
    return library.code_digest(Path(__file__).parent, SUFFIXES)


def provenance() -> dict[str, Any]:
    """Return versions, digests of both packages' code, and the machine."""
    return {**library.provenance(), "research_code": code_digest()}


def key_of(values: Any) -> str:
    """Return a digest that names a stored result: of everything that it depends on."""
    return digest([values, provenance()])


def write_json(path: str | Path, result: dict[str, Any]) -> None:
    """Write a result with its provenance."""
    library.write_json(path, {**result, "research_code": code_digest()})
