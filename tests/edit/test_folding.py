"""Texts as names are compared: without case, width and normal form, and with the positions of the text itself."""

import random
import unicodedata

import pytest

from diekae.edit.folding import fold

SAMPLES = "aZé ÉİıßΣςﬁ½Ｏ①…\n\t_.-9٣東京서울かガｶﾞก็ไทยदिल्लीम😀ǅ"
SAMPLES += "\u0301\u0307\u200d\u00ad\u202e\ufe0f\u1100\u1161\u11a8\U0001d400"


def test_positions_are_those_of_the_text() -> None:
    draw = random.Random(0)
    for _ in range(500):
        text = "".join(draw.choices(SAMPLES, k=draw.randrange(12)))
        folded = fold(text)
        assert len(folded.folded) == len(folded.starts) == len(folded.ends)
        assert list(folded.starts) == sorted(folded.starts) and list(folded.ends) == sorted(folded.ends)
        assert all(0 <= start < end <= len(text) for start, end in zip(folded.starts, folded.ends, strict=True))
        for position in range(len(folded.folded)):
            span = folded.span(position, position + 1)
            if span is not None:
                assert fold(text[slice(*span)]).folded == folded.folded[position]


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("İSTANBUL", "istanbul"),
        ("Istanbul", "istanbul"),
        ("ıstanbul", "istanbul"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("ＯＳＬＯ", "oslo"),
        ("Os\u00adlo", "oslo"),
        ("New\u00a0York", "new york"),
        ("ﬁn", "fin"),
        ("ｶﾞﾝﾀﾞﾑ", "ガンダム"),
        ("\u200b", ""),
    ],
)
def test_spellings_of_one_word_fold_to_the_same(text: str, folded: str) -> None:
    assert fold(text).folded == folded


@pytest.mark.parametrize("text", ["José", "서울", "ガンダム", "İzmir", "Việt Nam", "दिल्ली"])
@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_normal_forms_fold_to_the_same(text: str, form: str) -> None:
    assert fold(unicodedata.normalize(form, text)).folded == fold(text).folded  # type: ignore[arg-type]


def test_accents_are_not_left_out() -> None:
    assert fold("Muller").folded != fold("Müller").folded
