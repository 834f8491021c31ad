"""The engine: what one request is answered does not depend on the others, and nothing of one is left for the next."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from builders import hook_count
from diekae import DiekaeModel
from diekae.editor import Call, Editor
from diekae.serve.engine import Busy, Engine, EngineOptions
from diekae.serve.job import Delta, End
from tiny_served_model import SHIP, TOWER, Request, make_served_model, texts_of


@pytest.fixture(scope="module")
def model() -> DiekaeModel:
    return make_served_model()


@pytest.fixture
def engine(model: DiekaeModel) -> Iterator[Engine]:
    engine = Engine(model, EngineOptions(wait=0.1))
    yield engine
    engine.stop()
    assert not engine.waiting and not engine.running
    assert hook_count(model.decoder) == 0


def generated(model: DiekaeModel, request: Request) -> list[int]:
    """What the library itself generates for a request, greedily."""
    ids = torch.tensor([request.job.prompt])
    options: dict[str, Any] = {"max_new_tokens": request.job.sampling.max_new_tokens, "do_sample": False}
    known = None if request.job.prepared is None else [request.job.prepared]
    row = model.generate(ids, knowledge=known, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)
    tokens: list[int] = row[0, ids.shape[1] :].tolist()
    return tokens


MIXED: list[dict[str, Any]] = [
    {"document": TOWER},
    {},
    {"document": SHIP, "max_new_tokens": 5},
    {"document": TOWER + SHIP * 3, "temperature": 1.0, "seed": 7},
    {"temperature": 1.5, "top_p": 0.8, "seed": -3},
    # Another system prompt is another anchor, of another length.
    {"document": TOWER, "system": "Answer in one short sentence."},
    {"document": SHIP, "system": "Be brief.", "temperature": 0.7, "seed": 11},
    {"document": TOWER, "temperature": 1.0, "seed": 7, "max_new_tokens": 40},
]
"""Options of requests that are answered together."""


def mixed(model: DiekaeModel) -> list[Request]:
    return [Request(model, f"What about {number * 'it '}?", **options) for number, options in enumerate(MIXED)]


def test_a_batch_answers_as_each_request_alone(model: DiekaeModel, engine: Engine) -> None:
    alone = []
    for request in mixed(model):
        engine.submit(request.job)
        alone.append(request.wait())
    together = mixed(model)
    engine.submit(*(request.job for request in together))
    texts_of(together)
    assert [request.job.generated for request in together] == [request.job.generated for request in alone]
    assert [request.text for request in together] == [request.job.text for request in together]
    # Against the library, where nothing is drawn; and what was read matters.
    for request in alone:
        if not request.job.sampling.temperature:
            assert request.job.generated == generated(model, request)
    assert len({tuple(request.job.generated[:5]) for request in alone}) > 4


def test_rows_that_join_and_leave_midway_change_nothing(model: DiekaeModel, engine: Engine) -> None:
    first = Request(model, "Who was it?", TOWER, max_new_tokens=90)
    engine.submit(first.job)
    others = mixed(model)
    for request in others:
        assert first.growing.wait(30)
        engine.submit(request.job)
        time.sleep(0.01)
    others[7].job.cancel()
    texts_of([first, *others])
    assert first.job.generated == generated(model, first)
    for request in others[:3]:
        assert request.job.generated == generated(model, request)


def test_sampling_follows_its_seed_and_varies_without(model: DiekaeModel, engine: Engine) -> None:
    seeds = [1, 1, 2]
    requests = [Request(model, "Who?", temperature=1.0, seed=seed) for seed in seeds]
    engine.submit(*(request.job for request in requests))
    first, second, third = texts_of(requests)
    assert first == second != third
    narrow = Request(model, "Who?", temperature=2.0, top_p=1e-6, seed=5)
    cold = Request(model, "Who?", temperature=1e-300, seed=5)
    greedy = Request(model, "Who?")
    engine.submit(narrow.job, cold.job, greedy.job)
    assert len(set(texts_of([narrow, cold, greedy]))) == 1


def test_a_stop_text_ends_the_answer_wherever_tokens_end(model: DiekaeModel, engine: Engine) -> None:
    whole = Request(model, "Who?", TOWER, max_new_tokens=60)
    engine.submit(whole.job)
    text = whole.wait().text
    for start in range(2, 12):
        stop = text[start : start + 3]
        request = Request(model, "Who?", TOWER, max_new_tokens=60, stop=(stop, "never in it"))
        engine.submit(request.job)
        assert request.wait().text == text[: text.find(stop)]
        assert request.end.reason == "stop"


def test_a_full_queue_refuses_all_of_a_request(model: DiekaeModel) -> None:
    engine = Engine(model, EngineOptions(batch_size=1, queue_size=3))
    running = Request(model, "Who?", max_new_tokens=400)
    engine.submit(running.job)
    assert running.growing.wait(30)
    waiting = [Request(model, "Who?") for _ in range(2)]
    engine.submit(*(request.job for request in waiting))
    late = [Request(model, "Who?") for _ in range(2)]
    with pytest.raises(Busy, match="2 answers wait already, of at most 3"):
        engine.submit(*(request.job for request in late))
    assert engine.waiting == 2
    # Those whose client has left make room at once.
    waiting[0].job.cancel()
    engine.submit(*(request.job for request in late))
    running.job.cancel()
    texts_of([waiting[1], *late])
    assert waiting[0].wait().end.reason == "cancelled" and waiting[0].end.tokens == 0
    engine.stop()


def test_a_cancelled_row_ends_within_a_token(model: DiekaeModel, engine: Engine) -> None:
    requests = [Request(model, "Who?", max_new_tokens=900), Request(model, "Who?", max_new_tokens=30)]
    engine.submit(*(request.job for request in requests))
    assert requests[0].growing.wait(30)
    requests[0].job.cancel()
    assert requests[0].wait().end.reason == "cancelled" and requests[0].end.tokens < 60
    assert requests[1].wait().end.reason == "length"


def test_only_rows_at_fault_fail(model: DiekaeModel, engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = mixed(model)[:3], Request(model, "Who?", TOWER)
    assert bad.job.prepared is not None
    bad.job.prompt = bad.job.prompt[3:]  # does not begin with the anchor of its knowledge
    engine.submit(*(request.job for request in good), bad.job)
    for request in good:
        assert request.wait().job.generated == generated(model, request)
    bad.wait()
    assert isinstance(bad.events[-1], ValueError)
    assert "could not be generated" in caplog.text
    after = Request(model, "Who?", TOWER)
    engine.submit(after.job)
    assert after.wait().job.generated == generated(model, after)


def test_a_forward_that_fails_midway_is_continued(
    model: DiekaeModel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, calls = mixed(model)[:3], iter(range(1000))
    forward = model.decoder.forward

    def failing(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 6:
            raise MemoryError("no room")
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.decoder, "forward", failing)
    engine.submit(*(request.job for request in requests))
    texts_of(requests)
    monkeypatch.undo()
    assert all(request.job.generated == generated(model, request) for request in requests)


def test_stop_finishes_what_runs_and_what_waits(model: DiekaeModel) -> None:
    engine = Engine(model, EngineOptions(batch_size=1))
    requests = [Request(model, "Who?", max_new_tokens=20) for _ in range(3)]
    engine.submit(*(request.job for request in requests))
    engine.stop()
    assert [request.end for request in requests] == [End("length", 20)] * 3
    assert not engine.alive
    with pytest.raises(Busy, match="stopping"):
        engine.submit(Request(model, "Who?").job)


def test_stop_cancels_what_takes_too_long(model: DiekaeModel) -> None:
    engine = Engine(model, EngineOptions(batch_size=1))
    requests = [Request(model, "Who?", max_new_tokens=1500) for _ in range(2)]
    engine.submit(*(request.job for request in requests))
    assert requests[0].growing.wait(30)
    began = time.monotonic()
    engine.stop(0.05)
    assert time.monotonic() - began < 10
    assert [request.end.reason for request in requests] == ["cancelled"] * 2


def test_long_rows_do_not_share_a_batch_that_has_no_room(model: DiekaeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    forward = Engine._forward

    def noted(engine: Engine, jobs: list[Any]) -> None:
        sizes.append(len(jobs))
        forward(engine, jobs)

    monkeypatch.setattr(Engine, "_forward", noted)
    engine = Engine(model, EngineOptions(batch_tokens=500, wait=0.2))
    requests = [Request(model, "Who?", TOWER * 4), *(Request(model, "Who?") for _ in range(3))]
    engine.submit(*(request.job for request in requests))
    texts_of(requests)
    engine.stop()
    assert sizes[0] == 1 and 3 in sizes


def test_log_probabilities_are_those_of_the_decoder(model: DiekaeModel, engine: Engine) -> None:
    request = Request(model, "Who?", max_new_tokens=4, top_logprobs=3, temperature=1.3, seed=2)
    engine.submit(request.job)
    request.wait()
    ids = torch.tensor([[*request.job.prompt, *request.job.generated]])
    with torch.no_grad():
        logprobs = model.decoder(input_ids=ids).logits[0].log_softmax(-1)
    deltas = [event for event in request.events if isinstance(event, Delta)]
    for number, (delta, token) in enumerate(zip(deltas, request.job.generated, strict=True)):
        row = logprobs[len(request.job.prompt) - 1 + number]
        assert delta.score is not None and delta.score.logprob == pytest.approx(float(row[token]), abs=1e-4)
        best = [other.logprob for other in delta.alternatives]
        assert best == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)


class _Edits(Editor):
    """An edit that speaks to every question."""

    def __init__(self, prepared: Any) -> None:
        self.prepared, self.asked = prepared, 0

    def around(self, rows: Any, input_ids: Any, attention_mask: Any, cache: Any) -> Any:
        self.asked += 1
        return contextlib.nullcontext(Call([self.prepared]))


def test_an_answer_keeps_to_the_edits_that_were_in_force_when_it_started(model: DiekaeModel, engine: Engine) -> None:
    bare, edited = Request(model, "Who?", max_new_tokens=60), Request(model, "Who?", SHIP, max_new_tokens=60)
    engine.submit(bare.job, edited.job)
    texts_of([bare, edited])
    assert bare.text != edited.text
    model.editor = edits = _Edits(edited.job.prepared)
    try:
        first = Request(model, "Who?", max_new_tokens=60)
        engine.submit(first.job)
        assert first.growing.wait(30)
    finally:
        model.editor = None
    second = Request(model, "Who?", max_new_tokens=60)
    engine.submit(second.job)
    assert texts_of([first, second]) == [edited.text, bare.text]
    assert edits.asked == 1


def test_a_fault_of_the_edits_is_not_blamed_on_the_question(model: DiekaeModel, engine: Engine) -> None:
    class Faulty(Editor):
        def around(self, *_: Any, **__: Any) -> Any:
            raise MemoryError("no room")

    model.editor = Faulty()
    try:
        request = Request(model, "Who?", system="Be brief.")
        engine.submit(request.job)
        request.wait()
        assert isinstance(request.events[-1], MemoryError)
    finally:
        model.editor = None


def test_stop_cancels_also_what_is_about_to_start(model: DiekaeModel) -> None:
    starting, release = threading.Event(), threading.Event()

    class Slow(Editor):
        def around(self, *_: Any, **__: Any) -> Any:
            starting.set()
            assert release.wait(30)
            return contextlib.nullcontext(Call([None]))

    engine, request = Engine(model), Request(model, "Who?", max_new_tokens=1500)
    model.editor = Slow()
    try:
        engine.submit(request.job)
        assert starting.wait(30)
        stopping = threading.Thread(target=engine.stop, args=(0.05,))
        stopping.start()
        while not request.job.cancelled:
            time.sleep(0.01)
            assert stopping.is_alive(), "nothing was cancelled"
        release.set()
        stopping.join(30)
        assert request.wait().end.reason == "cancelled" and request.end.tokens < 60
    finally:
        model.editor = None
