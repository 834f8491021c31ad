"""Words of many scripts, normalized and found by their parts; and vectors of texts."""

import os
import random
import subprocess
import sys
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from builders import make_model
from diekae.store import KnowledgeStore
from diekae.store.embedders import static_embedder
from diekae.store.words import normalized_words, query_words

SAMPLES = (
    "İSTANBUL ısparta Straße ＡＢＣ１２３ ｶﾀｶﾅ é e\u0301 ﬁ ½ ① مُحَمَّد محـمد שָׁלוֹם ที่กรุงเทพ ສະບາຍດີ မြန်မာ "
    "ភាសាខ្មែរ "
    "हिन्दी தமிழ் 東京都 한국어 각 カタカナ・がか ばバ "
    "ǅ ŉ ᾳ ΑΙ ☕️ 葛\U000e0100 so\u00adft می\u200cخواهم a_b U.S. 3.5 𠮷野 Ⅷ ʰ Å Å"
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("İSTANBUL", "istanbul"),
        ("ISPARTA", "ısparta"),
        ("STRASSE", "straße"),
        ("STRAẞE", "strasse"),
        ("ÉCOLE", "e\u0301cole"),
        ("naïve", "naive"),
        ("Ångström", "A\u030angstro\u0308m"),
        ("ＡＢＣ１２３", "abc123"),
        ("ｶﾞｷﾞ", "ガギ"),
        ("ﬁne", "FINE"),
        ("مُحَمَّد", "محمد"),
        ("محـــمد", "محمد"),
        ("שָׁלוֹם", "שלום"),
        ("ΕΛΛΆΣ", "ελλάς"),
        ("Київ".upper(), "київ"),
        ("한국", unicodedata.normalize("NFD", "한국")),
        ("so\u00adft", "soft"),
        ("葛\U000e0100城", "葛城"),
        ("\ufefffirst", "first"),
    ],
)
def test_spellings_of_a_word_are_normalized_to_the_same(one: str, other: str) -> None:
    assert normalized_words(one) == normalized_words(other) and normalized_words(one)


@pytest.mark.parametrize(
    ("one", "other"), [("かく", "がく"), ("हिन्दी", "हन्द"), ("กรุง", "กรง"), ("ที", "ที่"), ("각", "가"), ("ø", "o")]
)
def test_marks_that_are_letters_are_kept(one: str, other: str) -> None:
    assert normalized_words(one) != normalized_words(other)


def test_words_of_many_scripts() -> None:
    assert normalized_words("The Queen's 3.5 km, snake_case!") == ["the", "queen", "s", "3", "5", "km", "snake_case"]
    assert normalized_words("हिन्दी भाषा") == ["हिन्दी", "भाषा"], "vowel signs do not separate words"
    assert normalized_words("東京都庁は Tokyoに") == ["東京", "京都", "都庁", "庁は", "tokyo", "に"]
    assert normalized_words("ジョン・スミス") == ["ジョ", "ョン", "スミ", "ミス"], "a dot separates names"
    assert normalized_words("한국어") == ["한국", "국어"]
    assert normalized_words("水") == ["水"]
    assert normalized_words("กา") == ["กา"]
    for blank in ("", " \n", "?!", "---", "\u200b", "☕️"):
        assert normalized_words(blank) == []


@pytest.mark.parametrize("seed", range(20))
def test_normalizing_is_idempotent_and_independent_of_the_unicode_form(seed: int) -> None:
    draw = random.Random(seed)
    text = "".join(draw.choice([*SAMPLES, " ", " "]) for _ in range(80)) + SAMPLES
    words = normalized_words(text)
    assert normalized_words(" ".join(words)) == words
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert normalized_words(unicodedata.normalize(form, text)) == words
    assert all(word and not word.isspace() and len(word.split()) == 1 for word in words)


def test_query_words_are_without_stop_words() -> None:
    assert query_words("Where are the DOGS, and the dogs of the King?") == ["dogs", "king"]
    assert query_words("What is it?") == ["what", "is", "it"], "with stop words if there are no others"
    assert query_words("?!") == []


def zeros(texts: Sequence[str]) -> np.ndarray:
    """Return zero vectors, so that passages are found by words only."""
    return np.zeros((len(texts), 2), np.float32)


FOUND_BY = [
    ("Die Strasse nach ISTANBUL ist gesperrt", "straße"),
    ("Die Strasse nach ISTANBUL ist gesperrt", "İstanbul'a"),
    ("Le château est à l'École normale", "chateau ECOLE"),
    ("كتب مُحَمَّد الرسالة", "محمد"),
    ("东京都政府大楼的电梯每周二检修", "电梯什么时候检修"),
    ("館内では飲食できません。カメラは使えます", "カメラ"),
    ("엘리베이터는 화요일에 점검합니다", "화요일"),
    ("ลิฟต์ปิดซ่อมทุกวันอังคาร", "วันอังคาร"),
    ("लिफ्ट मंगलवार को बंद रहती है", "मंगलवार"),
    ("ຫ້ອງສະໝຸດປິດວັນອັງຄານ", "ວັນອັງຄານ"),
    ("Ｍｏｄｅｌ ＸＫ－９２ has two pumps", "xk 92"),
    ("The pumps of snake_case are running", "pump RUN snake"),
]


def test_documents_of_all_scripts_are_found_by_parts_of_their_words(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("tries", len(FOUND_BY))
    store = KnowledgeStore(tmp_path / "store", make_model("reader"), embedder=zeros)
    texts = list(dict.fromkeys(text for text, _ in FOUND_BY))
    ids = store.add(texts).ids
    for text, question in FOUND_BY:
        passages = store.search(question, 2)
        assert passages[0].id == ids[texts.index(text)], question
        assert passages[0].score == 1 > passages[1].score, question
    for text in texts:
        # Every word finds its document: the index splits none and drops none.
        for word in normalized_words(text):
            assert store.catalogue.passages.match_words([word]), (word, text)
    for other in ("मंगलवीर", "วีน", "ວິນ"):
        assert normalized_words(other) and not store.catalogue.passages.match_words(normalized_words(other)), (
            "words with other vowels are other words"
        )


# Vectors


def test_vectors_have_length_1_and_that_of_a_blank_text_is_zero() -> None:
    texts = ["the castle is red", "", "東京", " \n", "\u200b", "a", "\x00", "the castle " * 500, "\t"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors = static_embedder()(texts)
        assert not static_embedder()([""]).any() and not static_embedder()(["", " "]).any()
    assert vectors.shape == (len(texts), 256) and vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    assert lengths == pytest.approx([float(bool(text.strip())) for text in texts], abs=1e-5)
    assert static_embedder()([]).shape == (0, 256)


def test_a_vector_is_independent_of_the_batch_and_close_to_similar_texts() -> None:
    embed = static_embedder()
    texts = ["where can I park my car", "the parking lot is behind the house", "bananas are yellow", ""]
    together = embed(texts * 40)  # more than one batch
    for row, text in enumerate(texts):
        np.testing.assert_allclose(together[row], embed([text])[0], atol=1e-6)
        np.testing.assert_allclose(together[row], together[row + 4 * 39], atol=1e-6)
    likeness = together[:4] @ together[0]
    assert likeness[0] == pytest.approx(1, abs=1e-5) and likeness[1] > likeness[2] + 0.1 and likeness[3] == 0


def test_vectors_need_no_network_and_do_not_configure_logging() -> None:
    """In a new process, where nothing is loaded yet, and any use of a socket raises."""
    script = (
        "import logging, socket\n"
        "def refuse(*_, **__): raise SystemExit('the network was asked')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from diekae.store.embedders import static_embedder\n"
        "before = logging.getLogger().level, list(logging.getLogger().handlers)\n"
        "assert static_embedder()(['the castle']).any()\n"
        "assert (logging.getLogger().level, logging.getLogger().handlers) == before, 'logging was set up'\n"
    )
    home = {**os.environ, "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=home, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("question", ["猫", "黒", "𠮷", "各", "々"])
def test_one_character_of_a_script_without_blanks_is_found(question: str, tmp_path: Path) -> None:
    store = KnowledgeStore(tmp_path, make_model("reader"))
    store.add(["the sea is blue", "庭に黒猫がいる。各。𠮷野。人々。黒猫", "犬"], prepare=False)
    best = store.search(question)[0]
    assert "猫" in best.text and best.coverage > 0
