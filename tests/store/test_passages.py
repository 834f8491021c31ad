"""Documents split into passages: random Markdown, checked against a simple reader of lines, and texts by hand."""

import random
import time

import pytest

from builders import WORDS, make_tokenizer
from diekae.store.passages import BLOCK, CHARACTERS, LEAST, LONGEST_HEADING, MOST, Passage, split

LONGEST = MOST * CHARACTERS


def sentence(draw: random.Random, least: int = 3, most: int = 25) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(least, most))).capitalize() + draw.choice(".!?")


def block(draw: random.Random) -> str:
    """Return a random block of Markdown: usual ones, and ones that are hard to split."""
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
    """Return the headings above a position, found line by line, with the one that begins there."""
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
                above = [passage for passage in above if passage[0] < level] + [(level, name.strip())]
        at += len(line) + 1
    return " > ".join(name for _, name in above)


def tables(text: str) -> list[str]:
    """Return the groups of two or more consecutive lines that begin with a bar."""
    groups, lines = list[str](), list[str]()
    for line in [*text.split("\n"), ""]:
        if line.lstrip(" ").startswith("|") and not line.startswith("    "):
            lines.append(line)
            continue
        groups += ["\n".join(lines).strip()] if len(lines) > 1 else []
        lines = []
    return groups


def check(text: str, passages: list[Passage]) -> None:
    """Check that passages are in order, do not overlap, and cover every character that is not blank."""
    end, outside = 0, ""
    for passage in passages:
        assert end <= passage.start < passage.end
        outside, end = outside + text[end : passage.start], passage.end
    assert end <= len(text)
    assert not (outside + text[end:]).strip(), f"left out: {(outside + text[end:]).strip()!r}"


@pytest.mark.parametrize("seed", range(60))
def test_passages_cover_a_random_document_in_order_with_their_headings(seed: int) -> None:
    text = document(seed)
    passages = split(text)
    check(text, passages)
    assert bool(passages) is bool(text.strip())
    for passage in passages:
        assert passage.end - passage.start <= LONGEST
        assert text[passage.start : passage.end].strip(), "a passage is not blank"
        assert passage.heading == heading_above(text, passage.start), repr(text[passage.start : passage.end])
    whole = [table for table in tables(text) if len(table) <= LONGEST]
    assert all(any(table in text[passage.start : passage.end] for passage in passages) for table in whole)
    assert split(text) == passages


@pytest.mark.parametrize("seed", range(15))
def test_tokens_are_counted_by_the_tokenizer(seed: int) -> None:
    text, tokenizer = document(100 + seed), make_tokenizer()
    passages = split(text, tokenizer)
    check(text, passages)
    counts = [len(tokenizer(text[passage.start : passage.end]).input_ids) for passage in passages]
    assert max(counts, default=0) <= MOST


def test_a_tokenizer_with_truncation_on_still_counts_all_tokens() -> None:
    text, tokenizer = " ".join(WORDS * 8), make_tokenizer()
    tokenizer(["a b", "c"], truncation=True, max_length=4, padding="max_length")
    passages = split(text, tokenizer)
    check(text, passages)
    assert len(passages) >= len(text.split()) / MOST
    assert len(tokenizer(["a castle", "the old red king opened"], truncation=True, max_length=4).input_ids[1]) == 4


def test_short_pieces_are_put_together_until_a_passage_is_long_enough() -> None:
    text = "\n\n".join(f"The {word} is old." for word in WORDS)
    passages = split(text)
    assert all(passage.end - passage.start >= LEAST * CHARACTERS for passage in passages[:-1])
    assert len(passages) < len(WORDS) / 5


def test_headings_form_paths() -> None:
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
    assert list(dict.fromkeys(passage.heading for passage in passages)) == paths
    assert [passage.heading for passage in passages if far in text[passage.start : passage.end]] == paths
    code = f"# Setup\n\n```bash\n# no heading\nmake\n```\n\n{far}\n\n```code``` inside a line\n\n## Next\n\n{far}"
    assert [passage.heading for passage in split(code)] == ["Setup", "Setup > Next"]
    skipped = split(f"### Deep\n\n{far}\n\n# Top\n\n{far}\n\n### Low\n\n{far}")
    assert [passage.heading for passage in skipped] == ["Deep", "Top", "Top > Low"]


def test_an_ordinary_table_stays_whole_and_a_large_one_is_split_between_rows() -> None:
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
            assert len(parts[1]) <= LONGEST and max(passage.end - passage.start for passage in passages) <= LONGEST
            assert any(parts[1] in text[passage.start : passage.end] for passage in passages), (rows, before, behind)
    large = table(60)
    rows = large.split("\n")
    pieces = [large[passage.start : passage.end] for passage in split(large)]
    assert len(pieces) > 2
    assert [row for piece in pieces for row in piece.split("\n")] == rows, "no row is split"


def test_text_without_blanks_is_split_after_sentences() -> None:
    draw = random.Random(2)
    sentences = [
        "".join(draw.choice("水火木金土日月山川田") for _ in range(draw.randint(5, 60))) + "。" for _ in range(80)
    ]
    text = "".join(sentences)
    passages = split(text)
    check(text, passages)
    assert len(passages) > 3 and all(text[passage.end - 1] == "。" for passage in passages)
    endless = "字" * 5000
    assert len(split(endless)) >= 5000 / LONGEST
    check(endless, split(endless))


def test_text_is_split_between_sentences_if_these_fit() -> None:
    text = " ".join(sentence(random.Random(seed)) for seed in range(120))
    passages = split(text)
    check(text, passages)
    assert len(passages) > 5 and all(text[passage.end - 1] in ".!?" for passage in passages)


def test_a_book_is_split_in_seconds() -> None:
    import time

    draw = random.Random(3)
    text = "\n\n".join(f"## Chapter {number}\n\n{sentence(draw, 40, 80)}" for number in range(2000))
    start = time.process_time()
    passages = split(text)
    assert len(passages) >= 1000 and time.process_time() - start < 10
    start = time.process_time()
    split("# " + " " * 50_000 + "x" + " #" * 10_000 + "\n" + "#" * 50_000)
    assert time.process_time() - start < 5, "a long line of marks must not take long"


@pytest.mark.parametrize("unit", ["x", "a\n", "# a\n", "a. ", "東", "> ", "*", "  - a\n", "| a |\n| b |\n\n"])
def test_no_text_takes_longer_than_its_length_allows(unit: str) -> None:
    """The splitter alone takes more than ten seconds for half a million times the same letter."""
    text = unit * (500_000 // len(unit.encode()))
    start = time.process_time()
    passages = split(text)
    assert time.process_time() - start < 8
    check(text, passages)


def test_a_large_text_is_cut_at_headings_and_paragraphs() -> None:
    draw = random.Random(0)
    text = "\n\n".join(f"# {number}\n\n{sentence(draw)} {sentence(draw)}" for number in range(1500))
    assert len(text) > 5 * BLOCK
    passages = split(text)
    check(text, passages)
    assert all(text[passage.start] == "#" for passage in passages)


def test_a_heading_without_end_is_not_repeated_in_each_passage() -> None:
    text = f"# {'castle ' * 50_000}\n\n" + "\n\n".join("the tower is red " * 30 for _ in range(100))
    passages = split(text)
    assert max(len(passage.heading) for passage in passages) == LONGEST_HEADING
    assert sum(len(passage.heading) for passage in passages) < len(text)
