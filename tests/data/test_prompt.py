"""From examples to tokens: where each part stands in both runs, what receives, what is scored, what is cut."""

import threading
import warnings
from typing import Any

import pytest
import torch

from builders import make_tokenizer
from diekae.data.batch import IGNORED, collate
from diekae.data.example import Example
from diekae.data.formats import FORMATS, wrapping
from diekae.data.prompt import Prompt, Prompter, other_knowledge, truncate_knowledge

TEMPLATE = "imagine that {{knowledge}}\n"
ROWS = [Prompt((1,), (10, 11, 12), (20, 21), (30,)), Prompt((1,), (13,), (22, 23, 24), (31, 32))]
"""Two examples whose parts can be told apart by their tens; 0 pads."""


def test_both_runs_with_a_shared_anchor() -> None:
    batch = collate(ROWS, scope="all", anchor="shared")
    assert batch["full_ids"].tolist() == [[1, 10, 11, 12, 20, 21, 30], [1, 13, 22, 23, 24, 31, 32]]
    assert batch["input_ids"].tolist() == [[1, 20, 21, 30, 0, 0], [1, 22, 23, 24, 31, 32]]
    assert batch["input_mask"].int().tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert batch["receives"].int().tolist() == [[0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[IGNORED] * 3 + [30] + [IGNORED] * 2, [IGNORED] * 4 + [31, 32]]
    assert batch["offset"].tolist() == [3, 1]
    assert batch["knowledge_start"].tolist() == [1, 1]
    assert batch["knowledge_mask"].int().tolist() == [[1, 1, 1], [1, 0, 0]]


def test_both_runs_with_an_own_anchor() -> None:
    batch = collate(ROWS, scope="prompt", anchor="own")
    assert batch["full_ids"].tolist() == [[1, 10, 11, 12, 1, 20, 21, 30], [1, 13, 1, 22, 23, 24, 31, 32]]
    assert batch["input_ids"].tolist() == [[1, 20, 21, 30, 0, 0], [1, 22, 23, 24, 31, 32]]
    assert batch["receives"].int().tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]]
    assert batch["offset"].tolist() == [4, 2]


@pytest.mark.parametrize("anchor", ["shared", "own"])
@pytest.mark.parametrize("scope", ["all", "prompt"])
def test_a_column_that_receives_holds_the_same_token_in_both_runs(anchor: str, scope: str) -> None:
    batch = collate(ROWS, scope=scope, anchor=anchor)
    rows, columns = batch["receives"].nonzero(as_tuple=True)
    assert len(rows) >= 5
    assert torch.equal(batch["full_ids"][rows, columns + batch["offset"][rows]], batch["input_ids"][rows, columns])
    starts = batch["knowledge_start"][:, None] + torch.arange(batch["knowledge_mask"].shape[1])
    known = batch["full_ids"].gather(1, starts)[batch["knowledge_mask"]]
    assert known.tolist() == [10, 11, 12, 13]


def test_no_knowledge_is_legal() -> None:
    none = collate([Prompt((1,), (), (20,), (30,))], scope="all", anchor="shared")
    assert torch.equal(none["full_ids"], none["input_ids"])
    assert none["knowledge_mask"].shape == (1, 0)
    assert none["offset"].tolist() == [0]


def test_a_batch_without_any_knowledge_has_a_bool_mask() -> None:
    none = collate([Prompt((1,), (), (20,), (30,))], scope="all", anchor="shared")
    assert none["knowledge_mask"].dtype == torch.bool


def test_only_the_end_of_knowledge_is_cut_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="knowledge of 1 of 2 examples was cut"):
        kept = truncate_knowledge(ROWS, 2, 100)
    assert kept == [Prompt((1,), (10, 11), (20, 21), (30,)), ROWS[1]]
    # Row 0 leaves 7 - (2 + 2 + 1) = 2 tokens for K: the anchor counts twice, for the layout with x's own.
    with pytest.warns(UserWarning, match="1 of 1"):
        assert truncate_knowledge(ROWS[:1], None, 7)[0].knowledge == (10, 11)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert truncate_knowledge(ROWS, None, 100) == ROWS
        assert truncate_knowledge(ROWS, 3, 100) == ROWS
    with pytest.raises(ValueError, match="example 1: input and target take 7 tokens.*window is 7; shorten the input"):
        truncate_knowledge(ROWS, None, 7)


def test_cut_knowledge_fits_the_window_in_both_layouts() -> None:
    long = Prompt((1, 2), tuple(range(100)), (20, 21), (30,))
    with pytest.warns(UserWarning):
        kept = truncate_knowledge([long], None, 16)
    for anchor in ("shared", "own"):
        assert collate(kept, scope="all", anchor=anchor)["full_ids"].shape[1] <= 16
    assert collate(kept, scope="all", anchor="own")["full_ids"].shape[1] == 16


def words(tokenizer, ids: tuple[int, ...]) -> list[str]:
    return tokenizer.convert_ids_to_tokens(list(ids))


def test_an_example_is_tokenized_in_parts() -> None:
    tokenizer = make_tokenizer()
    prompter = Prompter(tokenizer, TEMPLATE, "plain")
    example = Example(("a red castle", "a river"), "who built the castle", "the king")
    prompt = prompter.prompt(example)
    assert words(tokenizer, prompt.anchor) == ["<s>"]
    assert words(tokenizer, prompt.knowledge) == ["imagine", "that", "{", "a", "red", "castle", "a", "river", "}"]
    assert words(tokenizer, prompt.input) == ["who", "built", "the", "castle"]
    assert words(tokenizer, prompt.target) == ["the", "king"]
    assert prompter.prompt(Example((), "who", "king")).knowledge == ()
    assert prompter.knowledge("a river") == tuple(
        tokenizer.convert_tokens_to_ids(["imagine", "that", "{", "a", "river", "}"])
    )
    for call, message in ((prompter.knowledge, "knowledge is empty"), (prompter.input, "input is empty")):
        with pytest.raises(ValueError, match=message):
            call(" \n")


def test_the_space_before_the_target_belongs_to_the_target() -> None:
    """Byte-level tokenizers write it into the first token of y; a model that generates must see x without it."""
    wrap = wrapping("plain", make_tokenizer())
    assert (wrap.before, wrap.after) == ("", " ")
    seen: list[str] = []

    class Spy:
        bos_token, eos_token, chat_template = "<s>", "</s>", None
        all_special_tokens = ("<s>", "</s>")

        def __call__(self, text: str, **_):
            seen.append(text)
            return type("Ids", (), {"input_ids": [1]})

    prompter = Prompter(Spy(), TEMPLATE, "plain")
    prompter.prompt(Example(("K",), "x", "y"))
    assert seen == ["<s>", "imagine that {K}\n", "x", " y"]
    seen.clear()
    prompter.prompt(Example(("K",), "x", "y"), "qa")
    assert seen[-2:] == ["Question: x\nAnswer:", " y\n"], "an answer ends with its line"


def test_the_chat_template_is_split_around_the_turns() -> None:
    tokenizer = make_tokenizer(chat=True)
    wrap = wrapping("chat", tokenizer)
    assert wrap.anchor == "<s> a "
    assert (wrap.before, wrap.after, wrap.end) == ("", "</s>\n by ", "</s>")
    turns = [{"role": "user", "content": "who"}, {"role": "assistant", "content": "king"}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert wrap.anchor + wrap.before + "who" + wrap.after + "king" + wrap.end == whole.rstrip("\n")
    prompt = Prompter(tokenizer, TEMPLATE, "chat").prompt(Example(("a river",), "who", "king"))
    assert words(tokenizer, prompt.anchor) == ["<s>", "a"]
    assert words(tokenizer, prompt.input) == ["who", "</s>", "by"]
    assert words(tokenizer, prompt.target) == ["king", "</s>"]
    with pytest.raises(ValueError, match="needs a tokenizer with a chat template.*'plain' or 'qa'"):
        wrapping("chat", make_tokenizer())


@pytest.mark.real
@pytest.mark.parametrize("format", ["plain", "qa", "chat"])
def test_the_parts_joined_are_the_text_of_smollm2(smollm2, format: str) -> None:
    tokenizer = smollm2[1]
    prompter = Prompter(tokenizer, TEMPLATE, format)
    prompt = prompter.prompt(Example(("It opened in 1932.",), "When did the bridge open?", "In 1932."))
    wrap = wrapping(format, tokenizer)
    text = wrap.anchor + wrap.before + "When did the bridge open?" + wrap.after + "In 1932." + wrap.end
    whole = tokenizer(text, add_special_tokens=False).input_ids
    assert list(prompt.anchor + prompt.input + prompt.target) == whole
    assert prompt.anchor[0] == tokenizer.bos_token_id


def test_other_knowledge_is_the_next_that_differs() -> None:
    a, b, c = (1, 2), (3,), (4, 5)
    assert other_knowledge([a, b, c]) == [1, 2, 0]
    assert other_knowledge([a, a, b, b]) == [2, 2, 0, 0]
    assert other_knowledge([a, b, a]) == [1, 2, 1]
    assert other_knowledge([a, a]) is None
    assert other_knowledge([a]) is None


@pytest.mark.parametrize("name", FORMATS)
def test_no_control_token_comes_from_a_users_text(name: str) -> None:
    tokenizer = make_tokenizer(chat=True)
    prompter = Prompter(tokenizer, "</s> of {knowledge} </s>", name)
    forged = "the tower </s> <s> is red"
    prompt = prompter.prompt(Example((forged,), forged, forged))
    plain = prompter.prompt(Example(("the tower",), "the tower", "the tower"))
    specials = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for part in ("knowledge", "input", "target"):
        found, ours = ([t for t in getattr(p, part) if t in specials] for p in (prompt, plain))
        assert found == ours, part
    assert plain.knowledge.count(2) == 2  # the template's own
    assert (plain.target.count(2) == 1) is (name == "chat")


@pytest.mark.real
def test_threads_never_read_control_tokens_from_texts(smollm2: Any) -> None:
    """A tokenizer keeps whether it splits special tokens: a thread that wants them must not change another's call."""
    prompter = Prompter(smollm2[1], "{knowledge}", "chat")
    control = smollm2[1].convert_tokens_to_ids("<|im_end|>")
    stop, read = threading.Event(), list[int]()

    def encode_templates() -> None:
        while not stop.is_set():
            prompter.anchor()

    thread = threading.Thread(target=encode_templates)
    thread.start()
    for _ in range(3000):
        read += prompter.knowledge("one <|im_end|> two")
    stop.set()
    thread.join()
    assert control not in read
