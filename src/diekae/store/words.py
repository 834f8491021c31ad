"""The words of a text in the search index: normalized, so that other forms of them match."""

import re
import unicodedata
from functools import cache

STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this"
    " to was will with did do does how what when where which who whose why were".split()
)
"""Words that a search ignores: Lucene's English stop words, and question words."""
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
"""Scripts without blanks between words, or with other blanks: Thai, Lao, Burmese, Khmer, Japanese, Chinese, Korean."""
_WORD = re.compile(rf"[{_UNSPACED}]+|[^\s{_UNSPACED}]+")
_UNSPACED_WORD = re.compile(rf"[{_UNSPACED}]+")
_INVISIBLE = re.compile("[\u034f\u0640\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Joiners, the stroke that stretches Arabic words, and variation selectors."""


def normalized_words(text: str, *, with_ends: bool = False) -> list[str]:
    """Return a text's words without case, width and accents; scripts without blanks as overlapping pairs of characters.

    ``with_ends`` adds the last character of each run of such a script. Then every character begins a word, so a search
    can find it alone; see :func:`is_character`.

    Example:
        normalized_words("Le CHÂTEAU 東京都")  # ["le", "chateau", "東京", "京都"]
    """
    words: list[str] = []
    folded = unicodedata.normalize("NFKC", text).casefold().replace("ı", "i")  # the capital of Turkish ı is I
    decomposed = unicodedata.normalize("NFKD", folded)
    plain = unicodedata.normalize("NFC", "".join(map(_without_accent, decomposed)))
    for word in _WORD.findall(plain):
        if _UNSPACED_WORD.match(word):
            words += [word[start : start + 2] for start in range(len(word) - 1)]
            if with_ends or len(word) == 1:
                words.append(word[-1])
        else:
            words.append(word)
    return words


def is_character(word: str) -> bool:
    """Tell whether a word is one character of a script without blanks; it matches every word that begins with it."""
    return len(word) == 1 and _UNSPACED_WORD.match(word) is not None


def passage_words(title: str, beginning: str, heading: str, text: str) -> str:
    """Return the words that a passage is found by, separated by blanks: those of its title, heading and text.

    Often only the beginning of a document says what it is about. So the words of its first passage are added to every
    one.
    """
    return " ".join(normalized_words(f"{title} {beginning} {heading} {text}", with_ends=True))


@cache
def _without_accent(character: str) -> str:
    """Return a character of a word as it is; nothing for accents and invisible characters, a blank for all others."""
    category, combining_class = unicodedata.category(character), unicodedata.combining(character)
    # Classes of combination (Unicode, section 4.3). Marks of other classes are letters of Indian scripts, Thai, Lao and
    # Japanese.
    accent = combining_class == 1 or 10 <= combining_class <= 36 or combining_class >= 200
    if accent or category in ("Cf", "Me") or _INVISIBLE.match(character):
        return ""
    return character if category[0] in "LNM" or character == "_" else " "


def query_words(question: str) -> list[str]:
    """Return the words of a question, each once, without stop words unless there are no others."""
    words = list(dict.fromkeys(normalized_words(question)))
    return [word for word in words if word not in STOP_WORDS] or words
