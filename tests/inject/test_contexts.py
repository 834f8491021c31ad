"""Injection acts only in its own context, while threads, tasks and generators share one decoder."""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import hook_count, make_model
from diekae import DiekaeModel
from readings import CASTLE, QUESTIONS, RIVER, make_exact, off

BANKS = pytest.mark.parametrize("bank", ["exact", "attention", "reader", "token"])


def make(bank: str) -> tuple[DiekaeModel, Tensor]:
    model = make_exact() if bank == "exact" else make_model(bank)
    return model, model.tokenize(QUESTIONS[0])["input_ids"]


@torch.no_grad()
def run(model: DiekaeModel, ids: Tensor) -> Tensor:
    """Run the decoder itself, with whatever is injected around the call."""
    return model.decoder(input_ids=ids).logits


@torch.no_grad()
def wanted(model: DiekaeModel, ids: Tensor, *knowledge: Any) -> list[Tensor]:
    """Logits with each knowledge; all of them differ."""
    logits = [model(ids, knowledge=known).logits for known in knowledge]
    assert all(off(a, b) > 0.05 for n, a in enumerate(logits) for b in logits[:n])
    return logits


def held(model: DiekaeModel, ids: Tensor, knowledge: Any) -> Iterator[Tensor]:
    """A generator whose `injected` block stays open between its steps."""
    with model.injected(knowledge, ids):
        while True:
            yield run(model, ids)


def in_thread(call: Callable[[], Any]) -> Any:
    """Make a call in a new thread; return its result or its error."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


@BANKS
def test_a_second_block_in_the_same_context_is_refused_and_the_first_still_works(bank: str) -> None:
    model, ids = make(bank)
    with_castle, bare = wanted(model, ids, CASTLE, None)
    with model.injected(CASTLE, ids):
        with pytest.raises(ValueError, match="inside another `injected` block"), model.injected(RIVER, ids):
            pass
        with pytest.raises(ValueError, match="inside another `injected` block"):
            model.generate(ids, knowledge=RIVER, max_new_tokens=1)
        assert torch.equal(run(model, ids), with_castle)
    assert torch.equal(run(model, ids), bare)
    assert hook_count(model.decoder) == 0


def test_two_banks_through_one_attention_are_refused() -> None:
    model, ids = make("exact")
    other = make_exact(model.decoder, layers=[1])
    with (
        model.injected(CASTLE, ids),
        pytest.raises(ValueError, match="inside another"),
        other.injected(RIVER, ids),
    ):
        pass


@BANKS
def test_the_second_of_two_generators_in_one_context_is_refused(bank: str) -> None:
    model, ids = make(bank)
    with_castle, with_river, bare = wanted(model, ids, CASTLE, RIVER, None)
    first, second = held(model, ids, CASTLE), held(model, ids, RIVER)
    assert torch.equal(next(first), with_castle)
    with pytest.raises(ValueError, match="Two generators that are advanced in turn need a thread or a context each"):
        next(second)
    assert torch.equal(next(first), with_castle)
    first.close()
    assert torch.equal(run(model, ids), bare)
    third = held(model, ids, RIVER)
    assert torch.equal(next(third), with_river)
    third.close()
    assert hook_count(model.decoder) == 0


@BANKS
def test_generators_in_separate_contexts_can_alternate(bank: str) -> None:
    model, ids = make(bank)
    known = (CASTLE, RIVER)
    *logits, bare = wanted(model, ids, *known, None)
    generators = [(contextvars.copy_context(), held(model, ids, knowledge)) for knowledge in known]
    for _ in range(3):
        for (context, generator), want in zip(generators, logits, strict=True):
            assert torch.equal(context.run(next, generator), want)
        assert torch.equal(run(model, ids), bare)
    for context, generator in generators:
        context.run(generator.close)
    assert hook_count(model.decoder) == 0


@BANKS
def test_a_generator_closed_in_another_context_leaves_no_hooks(bank: str) -> None:
    """Garbage collection may close a generator in any context."""
    model, ids = make(bank)
    with_river, bare = wanted(model, ids, RIVER, None)
    context, generator = contextvars.copy_context(), held(model, ids, CASTLE)
    context.run(next, generator)
    generator.close()
    assert hook_count(model.decoder) == 0
    assert torch.equal(run(model, ids), bare)

    def again() -> Tensor:
        with model.injected(RIVER, ids):
            return run(model, ids)

    assert torch.equal(again(), with_river)
    assert torch.equal(context.run(again), with_river), "a block that has ended elsewhere is no block any more"


@BANKS
def test_a_thread_started_inside_a_block_must_choose_its_knowledge(bank: str) -> None:
    model, ids = make(bank)
    with_castle, with_river, bare = wanted(model, ids, CASTLE, RIVER, None)
    with torch.no_grad(), model.injected(CASTLE, ids):
        refused = in_thread(lambda: run(model, ids))
        assert isinstance(refused, RuntimeError) and "started inside an `injected` block" in str(refused)
        context = contextvars.copy_context()
        assert torch.equal(in_thread(lambda: context.run(run, model, ids)), with_castle)
        for knowledge, want in ((None, bare), (RIVER, with_river), (CASTLE, with_castle)):

            def forward(knowledge: Any = knowledge) -> Tensor:
                with torch.no_grad():
                    return model(ids, knowledge=knowledge).logits

            assert off(in_thread(forward), want) == 0
            written = in_thread(
                lambda knowledge=knowledge: model.generate(
                    ids,
                    knowledge=knowledge,
                    max_new_tokens=1,
                    do_sample=False,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
            )
            assert off(written.logits[0], want[:, -1]) <= 1e-5
        assert torch.equal(run(model, ids), with_castle)
    assert torch.equal(in_thread(lambda: run(model, ids)), bare)


@BANKS
def test_an_earlier_thread_runs_the_bare_decoder(bank: str) -> None:
    model, ids = make(bank)
    _, bare = wanted(model, ids, CASTLE, None)
    go, found = threading.Event(), []

    def work() -> None:
        go.wait(60)
        found.append(run(model, ids))

    thread = threading.Thread(target=work)
    thread.start()
    with model.injected(CASTLE, ids):
        go.set()
        thread.join()
    assert torch.equal(found[0], bare)


@BANKS
def test_a_context_copied_inside_a_block_has_no_knowledge_after_it(bank: str) -> None:
    model, ids = make(bank)
    with_river, bare = wanted(model, ids, RIVER, None)
    with model.injected(CASTLE, ids):
        context = contextvars.copy_context()

    def again() -> Tensor:
        with model.injected(RIVER, ids):
            return run(model, ids)

    assert torch.equal(context.run(run, model, ids), bare)
    assert torch.equal(context.run(again), with_river)


@BANKS
def test_tasks_do_not_affect_each_other(bank: str) -> None:
    model, ids = make(bank)
    known = (CASTLE, RIVER, None)
    logits = wanted(model, ids, *known)
    found: dict[int, list[Tensor]] = {number: [] for number in range(3)}

    async def work(number: int) -> None:
        with model.injected(known[number], ids):
            for _ in range(4):
                found[number].append(run(model, ids))
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(work(number) for number in range(3)))

    asyncio.run(main())
    for number, want in enumerate(logits):
        assert len(found[number]) == 4
        assert all(torch.equal(got, want) for got in found[number])
    assert hook_count(model.decoder) == 0


def test_knowledge_prepared_inside_a_block_is_that_of_the_bare_decoder() -> None:
    model, ids = make("exact")
    want = model.prepare(RIVER)
    with model.injected(CASTLE, ids):
        got = model.prepare(RIVER)
        inside = run(model, ids)
    assert all(torch.equal(got.tensors[name], want.tensors[name]) for name in want.tensors)
    assert torch.equal(inside, wanted(model, ids, CASTLE, None)[0])
