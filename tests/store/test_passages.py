"""Documents cut into passages: random Markdown and texts by hand, against a reader of lines that knows little else."""

import random

import pytest

from builders import WORDS, make_tokenizer
from diekae.store.passages import CHARACTERS, LEAST, MOST, Passage, split

LONGEST = MOST * CHARACTERS


def sentence(draw: random.Random, least: int = 3, most: int = 25) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(least, most))).capitalize() + draw.choice(".!?")


def block(draw: random.Random) -> str:
    """One block of Markdown: what people write, and what breaks splitters."""
    kind = draw.randrange(12)
    if kind < 3:
        level, space = draw.randint(1, 6), draw.choice(["", "", " ", "   "])
        return (
            f"{space}{'#' * level} {' '.join(draw.sample(WORDS, draw.randint(1, 4)))}{draw.choice(['', ' #', ' C#'])}"
        )
    if kind < 6:
        return " ".join(sentence(draw) for _ in range(draw.randint(1, 9)))
    if kind == 6:
        return "\n".join(f"{draw.choice('-*')} {sentence(draw, 1, 12)}" for _ in range(draw.randint(1, 12)))
    if kind == 7:
        rows = [[draw.choice(WORDS) for _ in range(3)] for _ in range(draw.randint(2, 20))]
        return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * 3, *rows[1:]])
    if kind == 8:
        fence = draw.choice(["```", "~~~", "````"])
        return f"{fence}{draw.choice(['', 'bash'])}\n# no heading\n{sentence(draw)}\n{fence}"
    if kind == 9:
        return "".join(draw.choice("水火木金土日月山川田。、") for _ in range(draw.randint(1, 900)))
    if kind == 10:
        return "".join(draw.choice("aé\u0301😀👩‍🚀ß\u200bم\x00\x1c\t #|`>-") for _ in range(draw.randint(1, 300)))
    return draw.choice(
        ["---", "# ", "#", "> " + sentence(draw), "```inline``` text", "    # code", "<b>x</b>", "Title\n==="]
    )


def document(seed: int) -> str:
    draw = random.Random(seed)
    blocks = [block(draw) for _ in range(draw.randint(1, 25))]
    text = draw.choice(["", "\n", "  "]) + draw.choice(["\n\n", "\n\n", "\n\n\n ", "\r\n\r\n"]).join(blocks)
    return text + draw.choice(["", "\n", " \n\n"])


def heading_above(text: str, place: int) -> str:
    """The headings above a place, found line by line; the one that begins there counts."""
    fence, above, at = "", list[tuple[int, str]](), 0
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip(" "))
        mark = line.strip()
        if at + indent > place:
            break
        if indent > 3:
            pass
        elif fence:
            fence = "" if mark.startswith(fence) else fence
        elif mark.startswith("~~~") or (mark.startswith("```") and "`" not in mark.lstrip("`")):
            fence = mark[: len(mark) - len(mark.lstrip(mark[0]))]
        elif mark.startswith("#") and len(words := mark.split(None, 1)) == 2 and set(words[0]) == {"#"}:
            name, level = words[1], len(words[0])
            name = name.rsplit(None, 1)[0] if set(name.split()[-1]) == {"#"} and len(name.split()) > 1 else name
            if level <= 6 and line[indent + level] in " \t" and set(name) != {"#"}:
                above = [one for one in above if one[0] < level] + [(level, name.strip())]
        at += len(line) + 1
    return " > ".join(name for _, name in above)


def tables(text: str) -> list[str]:
    """Lines behind each other that begin with a stroke, but for single ones."""
    groups, lines = list[str](), list[str]()
    for line in [*text.split("\n"), ""]:
        if line.lstrip(" ").startswith("|") and not line.startswith("    "):
            lines.append(line)
            continue
        groups += ["\n".join(lines).strip()] if len(lines) > 1 else []
        lines = []
    return groups


def check(text: str, passages: list[Passage]) -> None:
    """Passages lie in order, apart, and hold every character that is not blank."""
    end, outside = 0, ""
    for one in passages:
        assert end <= one.start < one.end
        outside, end = outside + text[end : one.start], one.end
    assert end <= len(text)
    assert not (outside + text[end:]).strip(), f"left out: {(outside + text[end:]).strip()!r}"


@pytest.mark.parametrize("seed", range(60))
def test_passages_hold_all_of_a_random_document_in_order_below_their_headings(seed: int) -> None:
    text = document(seed)
    passages = split(text)
    check(text, passages)
    assert bool(passages) is bool(text.strip())
    for one in passages:
        assert one.end - one.start <= LONGEST
        assert text[one.start : one.end].strip(), "a passage is not blank"
        assert one.heading == heading_above(text, one.start), repr(text[one.start : one.end])
    whole = [table for table in tables(text) if len(table) <= LONGEST]
    assert all(any(table in text[one.start : one.end] for one in passages) for table in whole)
    assert split(text) == passages


@pytest.mark.parametrize("seed", range(15))
def test_tokens_are_counted_where_there_is_a_tokenizer(seed: int) -> None:
    text, tokenizer = document(100 + seed), make_tokenizer()
    passages = split(text, tokenizer)
    check(text, passages)
    counts = [len(tokenizer(text[one.start : one.end]).input_ids) for one in passages]
    assert max(counts, default=0) <= MOST


def test_a_tokenizer_that_was_left_to_cut_off_still_counts_all() -> None:
    text, tokenizer = " ".join(WORDS * 8), make_tokenizer()
    tokenizer(["a b", "c"], truncation=True, max_length=4, padding="max_length")
    passages = split(text, tokenizer)
    check(text, passages)
    assert len(passages) >= len(text.split()) / MOST
    assert len(tokenizer(["a castle", "the old red king opened"], truncation=True, max_length=4).input_ids[1]) == 4


def test_neighbours_are_put_together_until_a_passage_is_long_enough() -> None:
    text = "\n\n".join(f"The {word} is old." for word in WORDS)
    passages = split(text)
    assert all(one.end - one.start >= LEAST * CHARACTERS for one in passages[:-1])
    assert len(passages) < len(WORDS) / 5


def test_headings_make_paths() -> None:
    far = sentence(random.Random(0), 100, 100)
    text = "\n\n".join(
        [
            "Before. " + far,
            "# Manual",
            far,
            "## Use of C#",
            far,
            "### Deep ###",
            far,
            "## Cleaning\r",
            far,
            "# Index",
            far,
        ]
    )
    paths = ["", "Manual", "Manual > Use of C#", "Manual > Use of C# > Deep", "Manual > Cleaning", "Index"]
    passages = split(text)
    assert list(dict.fromkeys(one.heading for one in passages)) == paths
    assert [one.heading for one in passages if far in text[one.start : one.end]] == paths
    code = f"# Setup\n\n```bash\n# no heading\nmake\n```\n\n{far}\n\n```code``` inside a line\n\n## Next\n\n{far}"
    assert [one.heading for one in split(code)] == ["Setup", "Setup > Next"]
    skipped = split(f"### Deep\n\n{far}\n\n# Top\n\n{far}\n\n### Low\n\n{far}")
    assert [one.heading for one in skipped] == ["Deep", "Top", "Top > Low"]


def test_a_table_of_ordinary_size_stays_whole_and_a_large_one_is_cut_between_rows() -> None:
    draw = random.Random(1)

    def table(rows: int) -> str:
        cells = [[draw.choice(WORDS) for _ in range(4)] for _ in range(rows)]
        return "\n".join("| " + " | ".join(row) + " |" for row in [["name"] * 4, ["---"] * 4, *cells])

    for rows in (3, 8, 12, 15):
        for before, behind in ((5, 5), (80, 80), (80, 5), (5, 80), (0, 80), (130, 0)):
            parts = [sentence(draw, before, before), table(rows), sentence(draw, behind, behind)]
            text = f"# Prices\n\n{parts[0]}\n\n  {parts[1]}\n\n{parts[2]}"
            passages = split(text)
            check(text, passages)
            assert len(parts[1]) <= LONGEST and max(one.end - one.start for one in passages) <= LONGEST
            assert any(parts[1] in text[one.start : one.end] for one in passages), (rows, before, behind)
    large = table(60)
    rows = large.split("\n")
    pieces = [large[one.start : one.end] for one in split(large)]
    assert len(pieces) > 2
    assert [row for piece in pieces for row in piece.split("\n")] == rows, "no row is cut"


def test_text_without_blanks_is_cut_behind_its_sentences() -> None:
    draw = random.Random(2)
    sentences = [
        "".join(draw.choice("水火木金土日月山川田") for _ in range(draw.randint(5, 60))) + "。" for _ in range(80)
    ]
    text = "".join(sentences)
    passages = split(text)
    check(text, passages)
    assert len(passages) > 3 and all(text[one.end - 1] == "。" for one in passages)
    endless = "字" * 5000
    assert len(split(endless)) >= 5000 / LONGEST
    check(endless, split(endless))


def test_a_passage_is_cut_between_sentences_where_these_fit() -> None:
    text = " ".join(sentence(random.Random(seed)) for seed in range(120))
    passages = split(text)
    check(text, passages)
    assert len(passages) > 5 and all(text[one.end - 1] in ".!?" for one in passages)


def test_a_book_is_cut_in_seconds() -> None:
    import time

    draw = random.Random(3)
    text = "\n\n".join(f"## Chapter {number}\n\n{sentence(draw, 40, 80)}" for number in range(2000))
    start = time.process_time()
    passages = split(text)
    assert len(passages) >= 1000 and time.process_time() - start < 10
    start = time.process_time()
    split("# " + " " * 50_000 + "x" + " #" * 10_000 + "\n" + "#" * 50_000)
    assert time.process_time() - start < 5, "a line of marks must not take for ever"
