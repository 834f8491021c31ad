"""The example, its file, and mixtures."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diekae.data import DataError, Example, read_examples
from diekae.data.example import write_examples
from diekae.data.mixture import DataSpec, load_mixture, shares
from diekae.data.prompt import Prompter

EXAMPLES = [
    Example(("One document.",), "A question?", "An answer"),
    Example(("First.", "Second\nwith a line break."), "Größe?", "12 µm"),
    Example((), "No knowledge?", "None"),
    Example(("A theory.",), "A statement.", "True", label="True"),
    Example(("The answer.",), "[SYS]", "The answer.", leaks=True),
]


def _write_lines(path: Path, *rows: object) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_written_examples_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "examples.jsonl"
    write_examples(path, iter(EXAMPLES))
    assert read_examples(path) == EXAMPLES
    assert read_examples(str(path), limit=2) == EXAMPLES[:2]
    assert [json.loads(line)["knowledge"] for line in path.read_text(encoding="utf-8").splitlines()] == [
        "One document.",
        ["First.", "Second\nwith a line break."],
        None,
        "A theory.",
        "The answer.",
    ]
    keys = [set(json.loads(line)) - {"knowledge", "input", "target"} for line in path.read_text("utf-8").splitlines()]
    assert keys == [set(), set(), set(), {"label"}, {"leaks"}]
    assert "Größe" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["examples.jsonl"]


def test_further_keys_empty_lines_and_a_byte_order_mark_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    line = json.dumps({"knowledge": ["K"], "input": "I", "target": "T", "source": "mine"})
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n{line}".encode())
    assert read_examples(path) == [Example(("K",), "I", "T")] * 2


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    write_examples(path, EXAMPLES)
    before = path.read_bytes()

    def broken() -> Any:
        yield EXAMPLES[0]
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write_examples(path, broken())
    with pytest.raises(DataError, match="no example to write"):
        write_examples(path, [])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("text", "I", "T"), "knowledge must be a tuple of documents, got str 'text'"),
        ((["text"], "I", "T"), "knowledge must be a tuple"),
        ((("ok", " \n"), "I", "T"), r"knowledge\[1\] is blank"),
        (((7,), "I", "T"), r"knowledge\[0\] must be text, got int 7"),
        (((), "", "T"), "input is blank"),
        (((), "I", "\t"), "target is blank"),
        (((), "I", None), "target must be text, got NoneType"),
    ],
)
def test_invalid_fields_are_refused(fields: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Example(*fields)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{oops", "not JSON"),
        ([1, 2], "expected a JSON object, got list"),
        ({"input": "I", "target": "T", "knowlege": "K"}, "no key 'knowledge'; the keys here are .*'knowlege'"),
        ({"knowledge": "", "input": "I", "target": "T"}, "knowledge is blank"),
        ({"knowledge": {"a": 1}, "input": "I", "target": "T"}, "knowledge must be text, got dict"),
        ({"knowledge": [None], "input": "I", "target": "T"}, r"knowledge\[0\] must be text"),
        ({"knowledge": None, "input": 3, "target": "T"}, "input must be text, got int 3"),
        ({"knowledge": None, "input": "I", "target": "T", "label": 3}, "label must be text, got int 3"),
        ({"knowledge": None, "input": "I", "target": "T", "leaks": "no"}, "leaks must be true or false, got str 'no'"),
        ({"knowledge": None, "input": "I", "target": "\ud800"}, r"target is not Unicode: it holds U\+D800"),
        ({"knowledge": ["\udcff"], "input": "I", "target": "T"}, r"knowledge\[0\] is not Unicode"),
        ('{"knowledge": NaN, "input": "I", "target": "T"}', "not usable JSON .NaN is not a value of JSON"),
        ('{"knowledge": null, "input": ' + "9" * 5000 + ', "target": "T"}', "not usable JSON .*digits"),
        ('{"knowledge": ' + "[" * 100_000 + "]" * 100_000 + ', "input": "I", "target": "T"}', "nested too deep"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, second: object, message: str) -> None:
    good = {"knowledge": None, "input": "I", "target": "T"}
    path = _write_lines(tmp_path / "bad.jsonl", good, second, good)
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}:2: .*{message}"):
        read_examples(path)
    assert read_examples(path, limit=1) == [Example((), "I", "T")]


def test_line_separators_of_unicode_are_part_of_a_text(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d\x0be"
    path = tmp_path / "examples.jsonl"
    path.write_bytes(json.dumps({"knowledge": text, "input": text, "target": text}, ensure_ascii=False).encode())
    (example,) = read_examples(path)
    assert example.knowledge == (text,) and example.input == example.target == text
    write_examples(path, [example])
    assert read_examples(path) == [example]


def test_a_prompt_of_bytes_that_are_not_utf8_is_refused() -> None:
    prompter = Prompter(_Characters(), template="{knowledge}")  # type: ignore[arg-type]
    for tokenize in (prompter.input, prompter.knowledge):
        with pytest.raises(DataError, match=r"the text is not Unicode: it holds U\+DCFF"):
            tokenize("what \udcff")


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"knowledge": null, "input": "I", "target": "T"}\n{"knowledge": null, "input": "caf\xe9"}\n')
    with pytest.raises(DataError, match="latin.jsonl:2: not UTF-8"):
        read_examples(path)


def test_a_missing_or_empty_file_and_a_limit_of_zero_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_examples(tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match="holds no example"):
        read_examples(_write_lines(tmp_path / "empty.jsonl", ""))
    with pytest.raises(DataError, match="limit is 0"):
        read_examples(tmp_path / "nothing.jsonl", limit=0)


class _Characters:
    """Stands in for a tokenizer: a token a character, so that texts can be read off the ids."""

    bos_token, eos_token, chat_template, all_special_tokens = "^", "$", None, ("^", "$")

    def __call__(self, text: str, **_: bool) -> Any:
        return SimpleNamespace(input_ids=[ord(character) for character in text])


def _inputs(specs: list[DataSpec], seed: int) -> list[str]:
    prompter = Prompter(_Characters(), template="{knowledge}")  # type: ignore[arg-type]
    return ["".join(map(chr, prompt.input)) for prompt in load_mixture(specs, seed, prompter)]


def test_a_mixture_holds_every_part_shuffled_by_the_seed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows = [Example((), f"{name}{number}", "T") for number in range(20)]
        write_examples(tmp_path / name / "train.jsonl", rows)
    specs = [DataSpec("jsonl", str(tmp_path / "a")), DataSpec("jsonl", str(tmp_path / "b"), limit=5)]
    inputs = _inputs(specs, seed=0)
    assert sorted(text for text in inputs if text[0] == "a") == sorted(f"a{number}" for number in range(20))
    assert len(inputs) == len(set(inputs)) == 25
    assert inputs == _inputs(specs, seed=0)
    other = _inputs(specs, seed=1)
    assert inputs != other and {text for text in inputs if text[0] == "b"} != {text for text in other if text[0] == "b"}
    assert "b" in {text[0] for text in inputs[:20]}, "the parts stand one behind the other"


def test_weights_decide_the_shares_and_not_the_length(tmp_path: Path) -> None:
    for name, count in (("a", 30), ("b", 10)):
        write_examples(tmp_path / name / "train.jsonl", [Example((), f"{name}{n:02}", "T") for n in range(count)])
    specs = [DataSpec("jsonl", str(tmp_path / name), weight=weight) for name, weight in (("a", 1), ("b", 3))]
    inputs = _inputs(specs, seed=0)
    counts = Counter(inputs)
    assert len(inputs) == 40 and sum(text[0] == "b" for text in inputs) == 30
    assert {count for text, count in counts.items() if text[0] == "b"} == {3}, "repeated unevenly"
    assert {count for text, count in counts.items() if text[0] == "a"} == {1}
    assert inputs == _inputs(specs, seed=0) != _inputs(specs, seed=1)
    unweighted = [DataSpec("jsonl", str(tmp_path / name)) for name in "ab"]
    with pytest.raises(DataError, match="1 of 2 data sets have a weight"):
        _inputs([specs[0], unweighted[1]], seed=0)


def test_a_share_of_the_examples_gets_anothers_knowledge(tmp_path: Path) -> None:
    rows = [Example((f"k{number:02}",), f"{number:02}", "T") for number in range(20)]
    write_examples(tmp_path / "train.jsonl", rows)
    prompter = Prompter(_Characters(), template="{knowledge}")  # type: ignore[arg-type]

    def pairs(unrelated: float) -> dict[str, str]:
        spec = DataSpec("jsonl", str(tmp_path), unrelated=unrelated)
        texts = [
            tuple("".join(map(chr, ids)) for ids in (p.input, p.knowledge)) for p in load_mixture([spec], 0, prompter)
        ]
        return {asked: known for asked, known in texts}

    own = {f"{number:02}": f"k{number:02}" for number in range(20)}
    assert pairs(0.0) == own
    changed = pairs(0.25)
    assert set(changed) == set(own) and set(changed.values()) <= set(own.values())
    assert sum(changed[asked] != own[asked] for asked in own) == 5
    assert all(known != own[asked] for asked, known in pairs(1.0).items())
    write_examples(tmp_path / "train.jsonl", [Example(("k",), f"{number}", "T") for number in range(4)])
    with pytest.raises(DataError, match="all examples have the same knowledge"):
        pairs(0.5)


def test_knowledge_is_placed_among_that_of_others(tmp_path: Path) -> None:
    rows = [Example((f"k{number:02}",), f"{number:02}", "T") for number in range(40)] + [Example((), "none", "T")]
    write_examples(tmp_path / "train.jsonl", rows)
    prompter = Prompter(_Characters(), template="{knowledge}")  # type: ignore[arg-type]

    def known(seed: int, **options: int) -> dict[str, list[str]]:
        prompts = load_mixture([DataSpec("jsonl", str(tmp_path), **options)], seed, prompter)
        return {"".join(map(chr, p.input)): "".join(map(chr, p.knowledge)).split("\n") for p in prompts}

    found = known(0, among=30)
    strangers = found.pop("none")
    mine = list(found.values())
    assert all(f"k{asked}" in documents for asked, documents in found.items())
    assert all(len(documents) == len(set(documents)) for documents in mine), "a document twice"
    sizes = {len(documents) for documents in mine}
    assert len(sizes) > 5 and max(sizes) in (9, 10), "lengths are drawn, up to 30 tokens"
    places = {documents.index(f"k{asked}") for asked, documents in found.items() if 3 < len(documents) < 9}
    assert len(places) > 1, "its own knowledge always stands at one place"
    assert {**found, "none": strangers} == known(0, among=30) != known(1, among=30)
    assert strangers != [""], "what has no knowledge is given others'"
    assert all(known(0, among=2)[asked] == [f"k{asked}"] for asked in found)


@pytest.mark.parametrize(
    ("total", "weights", "sizes"), [(10, [1, 1, 1], [4, 3, 3]), (7, [0.5, 0.25], [5, 2]), (1, [1, 9], [0, 1])]
)
def test_shares_add_up(total: int, weights: list[float], sizes: list[int]) -> None:
    assert shares(total, weights) == sizes


def test_long_knowledge_is_left_out_before_the_limit_counts(tmp_path: Path) -> None:
    rows = [Example(("k" * length,), f"{length:02}", "T") for length in range(1, 21)]
    write_examples(tmp_path / "train.jsonl", rows)
    assert sorted(_inputs([DataSpec("jsonl", str(tmp_path), longest=6)], 0)) == [f"{n:02}" for n in range(1, 7)]
    assert len(_inputs([DataSpec("jsonl", str(tmp_path), longest=6, limit=5)], 0)) == 5
    with pytest.raises(DataError, match="longest=0"):
        _inputs([DataSpec("jsonl", str(tmp_path), longest=0)], 0)


def test_a_wrong_spec_is_refused_at_once() -> None:
    with pytest.raises(DataError, match="unknown split 'valid'.*Did you mean 'validation'"):
        DataSpec("facts", split="valid")
    with pytest.raises(DataError, match="limit is -1"):
        DataSpec("facts", limit=-1)
    with pytest.raises(DataError, match="unrelated is 1.5; expected a share"):
        DataSpec("facts", unrelated=1.5)
    with pytest.raises(DataError, match="among is 0; expected a positive number of tokens"):
        DataSpec("facts", among=0)
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="weight is .*; expected a positive number"):
            DataSpec("facts", weight=weight)
    with pytest.raises(DataError, match="no data set was named"):
        _inputs([], seed=0)
