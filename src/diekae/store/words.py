"""What a text is found by: its words, alike whatever their case, width, accents and endings; and a vector of it."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this"
    " to was will with did do does how what when where which who whose why were".split()
)
"""Words that lead to no document: Lucene's English ones, and those that make a question."""
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
"""Scripts that do not part words, or part them otherwise: Thai, Lao, Burmese, Khmer, Japanese, Chinese, Korean."""
_WORD = re.compile(rf"[{_UNSPACED}]+|[^\s{_UNSPACED}]+")
_UNSPACED_RUN = re.compile(rf"[{_UNSPACED}]+")
_UNSEEN = re.compile("[\u034f\u0640\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Joiners, the stroke that stretches Arabic words, and what selects among the shapes of a character."""

Vectors = NDArray[np.float32]
Embedder = Callable[[Sequence[str]], Vectors]
"""Turns texts into vectors of length 1, [texts, dimensions]; of a blank text it makes zeros."""


def words_of(text: str) -> list[str]:
    """Return a text's words: normalised, without accents; scripts that part no words as pairs of characters."""
    found: list[str] = []
    alike = unicodedata.normalize("NFKC", text).casefold().replace("ı", "i")  # Turkish, whose capital is I
    apart = unicodedata.normalize("NFKD", alike)
    plain = unicodedata.normalize("NFC", "".join(map(_kept, apart)))
    for word in _WORD.findall(plain):
        if _UNSPACED_RUN.match(word):
            found += [word[place : place + 2] for place in range(len(word) - 1)] or [word]
        else:
            found.append(word)
    return found


@cache
def _kept(character: str) -> str:
    """Return a word's character; nothing for an accent or what is not seen, a blank for what stands between words."""
    kind, place = unicodedata.category(character), unicodedata.combining(character)
    # Classes of combination (Unicode, section 4.3): other marks are letters of Indian scripts, Thai, Lao and Japanese.
    accent = place == 1 or 10 <= place <= 36 or place >= 200
    if accent or kind in ("Cf", "Me") or _UNSEEN.match(character):
        return ""
    return character if kind[0] in "LNM" or character == "_" else " "


def asked_words(question: str) -> list[str]:
    """Return the words of a question that a document can be found by; all of them if there are no others."""
    words = list(dict.fromkeys(words_of(question)))
    return [word for word in words if word not in STOP_WORDS] or words


@cache
def static_embedder() -> Embedder:
    """Return WordLlama's static embeddings, 256 dimensions: 16 MB that come with its package, and no run of a model."""
    # It sets the process's logging up when it is imported, unless somebody has.
    logs, handler = logging.getLogger(), logging.NullHandler()
    logs.addHandler(handler)
    try:
        import wordllama
    finally:
        logs.removeHandler(handler)

    # By itself it looks for its tokenizer elsewhere, and would download what lies beside it.
    model: Any = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)

    def embed(texts: Sequence[str]) -> Vectors:
        rows = [row for row, text in enumerate(texts) if text.strip()]
        vectors = np.zeros((len(texts), model.embedding.shape[1]), np.float32)
        if rows:
            vectors[rows] = model.embed([texts[row] for row in rows])
        lengths: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
        lengths[lengths == 0] = 1
        vectors /= lengths
        return vectors

    return embed
