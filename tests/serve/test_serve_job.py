"""What a job sends while its tokens come: whole characters only, and nothing of a stop text."""

from __future__ import annotations

import pytest

from diekae.serve.job import HALF, Delta, End, Event, Job, Sampling, TokenScore
from tiny_served_model import make_bytes_tokenizer

TOKENIZER = make_bytes_tokenizer()
ENDS = {4}


def sent(text: str, tail: tuple[int, ...] = (), **sampling: object) -> tuple[list[str], str]:
    """Give a job a text byte by byte; return what it sends, and why it ends."""
    events: list[Event] = []
    tokens = [*TOKENIZER(text, add_special_tokens=False).input_ids, *tail]
    job = Job((1,), None, Sampling(**{"max_new_tokens": len(tokens), **sampling}), events.append)  # type: ignore[arg-type]
    for token in tokens:
        if not job.finished:
            job.add(token, TOKENIZER, ENDS, Delta())
    assert isinstance(events[-1], End) and events[-1].tokens == len(job.generated)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert "".join(delta.text for delta in deltas) == job.text
    return [delta.text for delta in deltas], events[-1].reason


def test_characters_are_sent_whole() -> None:
    deltas, _ = sent("a😀é 👩‍👩‍👧!")
    assert deltas == list("a😀é 👩‍👩‍👧!") and HALF not in "".join(deltas)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_half_a_character_at_the_end_is_left_out(missing: int) -> None:
    tokens = TOKENIZER("ab😀", add_special_tokens=False).input_ids[:-missing]
    events: list[Event] = []
    job = Job((1,), None, Sampling(max_new_tokens=len(tokens)), events.append)
    for token in tokens:
        job.add(token, TOKENIZER, ENDS, Delta())
    assert job.text == "ab" and events[-1] == End("length", len(tokens))
    assert all(HALF not in event.text for event in events if isinstance(event, Delta))


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one. two", (".",), "one"),
        ("one\n\ntwo", ("\n\n",), "one"),
        ("one\ntwo", ("\n\n",), "one\ntwo"),  # its beginning is sent when it turns out to be none
        ("aab", ("ab",), "a"),
        ("abc", ("c", "bc"), "a"),  # the one that begins first
        ("x😀y", ("x😀",), ""),  # half a character does not let go of its beginning
        ("end", ("end",), ""),
    ],
)
def test_stop_texts_are_never_sent(text: str, stop: tuple[str, ...], expected: str) -> None:
    deltas, reason = sent(text, stop=stop)
    assert "".join(deltas) == expected
    assert reason == ("length" if expected == text else "stop")


def test_an_end_token_sends_what_was_held_back() -> None:
    deltas, reason = sent("one\n", (4,), stop=("\n\n",))
    assert "".join(deltas) == "one\n" and reason == "stop"


def test_special_tokens_are_not_part_of_the_text_but_their_scores_are_reported() -> None:
    events: list[Event] = []
    job = Job((1,), None, Sampling(max_new_tokens=2), events.append)
    for token in (3, TOKENIZER("é", add_special_tokens=False).input_ids[0]):
        job.add(token, TOKENIZER, ENDS, Delta("", TokenScore("?", -1.0)))
    assert [event.text for event in events if isinstance(event, Delta)] == ["", ""] and job.text == ""
