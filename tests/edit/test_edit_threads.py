"""Edits that several threads use: each question is answered by one state of the edits."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builders import make_model
from diekae.edit import Edit, edit_model
from diekae.edit.gate import Gate, GateEntry, MentionGate
from diekae.edit.learned_gate import LearnedGate
from diekae.edit.prompt_encoder import GateOptions, PromptEncoder, StateReader

PLACES = ("house", "tower", "bridge", "castle")


@pytest.fixture(autouse=True)
def frequent_switches() -> Iterator[None]:
    """Let the interpreter change threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@contextmanager
def repeated(work: Callable[[int], object]) -> Iterator[None]:
    """Call a function again and again in another thread while the block runs, and raise its error if it has one."""
    stop, errors = threading.Event(), list[BaseException]()

    def run() -> None:
        count = 0
        try:
            while not stop.is_set():
                work(count)
                count += 1
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


def learned_gate() -> LearnedGate:
    options = GateOptions(layers=(1, 2), heads=2, head_width=8, mentioned=-1.0, nearly=-1.0)
    model = make_model("reader")
    states = StateReader(model.decoder, model.need_prompter(), options.layers)
    return LearnedGate(states, PromptEncoder(32, options), options)


@pytest.mark.parametrize("make_gate", [MentionGate, learned_gate])
def test_a_thread_that_opens_the_gate_never_gets_the_edit_of_another_subject(make_gate: Callable[[], Gate]) -> None:
    gate = make_gate()
    edits = [Edit(f"the {place} is", place, "old") for place in PLACES]
    vectors = gate.encode(edits)
    all_entries = [GateEntry(*values) for values in zip(range(1, 5), edits, vectors, strict=True)]
    texts = [edit.prompt for edit in edits] * 50
    possible = [[[number], []] for number in range(1, 5)] * 50
    with repeated(lambda count: gate.set_edits(all_entries[count % 4 :])):
        for _ in range(100):
            for ids, choices in zip(gate.open(texts), possible, strict=True):
                assert ids in choices, "the edit of another subject applied"


def test_questions_of_several_threads_while_edits_are_made_and_reverted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diekae.edit.edits.CACHED_BYTES", 20_000)
    model = make_model("reader")
    edits = edit_model(model, [Edit(f"the {place} is", place, "old") for place in PLACES], gate="mention")
    texts = [f"the {place} is" for place in PLACES]

    def change(count: int) -> None:
        (record,) = edits.add([Edit("the house is", "house", f"red {count}")])
        assert edits.which(texts)[0] == [record.id], "an edit is in force as soon as it is made"
        edits.revert(record.id)
        assert edits.which(texts)[0] == [1], "a reverted edit is out of force at once"

    with repeated(change), repeated(lambda _: edits.knowledge(texts[::-1])):
        for _ in range(50):
            first, *others = edits.which(texts)
            assert len(first) == 1 and others == [[2], [3], [4]]
            assert all(edits.knowledge(texts))


def test_a_forked_process_reads_edits_while_a_thread_of_its_parent_writes(tmp_path: Path) -> None:
    fact = Edit("the red house is", "red house", "blue")
    store = edit_model(make_model(), [fact], folder=tmp_path, gate="mention").store
    writing, end = threading.Event(), threading.Event()

    def write() -> None:
        with store.writing():
            writing.set()
            end.wait(60)

    thread = threading.Thread(target=write)
    thread.start()
    assert writing.wait(10)
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        os._exit(0 if [record.edit.target for record in store.records()] == ["blue"] else 1)
    status = os.waitpid(child, 0)[1]
    end.set()
    thread.join()
    assert status == 0
