"""Encoders: small networks that read knowledge and input and return differences. One file each, registered by name."""

from diekae.encoders.attention import Attention
from diekae.encoders.base import DifferenceEncoder, Encoder, encoder_class, encoder_names, register
from diekae.encoders.knowledge import KnowledgeBatch
from diekae.encoders.reader import Reader
from diekae.encoders.token import Token

__all__ = [
    "Attention",
    "DifferenceEncoder",
    "Encoder",
    "KnowledgeBatch",
    "Reader",
    "Token",
    "encoder_class",
    "encoder_names",
    "register",
]
