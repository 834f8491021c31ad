"""The model: a frozen decoder that takes knowledge by injection."""

from diekae.model.model import DiekaeModel

__all__ = ["DiekaeModel"]
