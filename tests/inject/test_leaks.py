"""Knowledge held in one place is not read in another, in whatever order blocks are entered, advanced and left."""

import asyncio
import contextvars
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch
from test_contexts import held, in_thread, run, wanted
from torch import Tensor

from builders import hook_count, make_model
from readings import CASTLE, QUESTIONS, RIVER, make_exact

KNOWLEDGE = (CASTLE, RIVER, None)


def logits_by_knowledge(model: Any, ids: Tensor) -> dict[str | None, Tensor]:
    return dict(zip(KNOWLEDGE, wanted(model, ids, *KNOWLEDGE), strict=True))


@pytest.mark.parametrize("bank", ["exact", "reader"])
@pytest.mark.parametrize("pair", list(itertools.permutations(KNOWLEDGE, 2)))
@pytest.mark.parametrize("order", ["0101", "0011", "1010", "0110"])
def test_generators_of_one_context_never_read_each_others_knowledge(bank: str, pair: Any, order: str) -> None:
    """Whatever a generator yields was computed with its own knowledge; what would leak is refused."""
    model = make_exact() if bank == "exact" else make_model(bank)
    ids = model.tokenize(QUESTIONS[0])["input_ids"]
    want = logits_by_knowledge(model, ids)
    generators, refused = [held(model, ids, knowledge) for knowledge in pair], set()
    for number in map(int, order):
        if number in refused:
            continue
        try:
            assert torch.equal(next(generators[number]), want[pair[number]])
        except ValueError as error:
            assert "inside another `injected` block" in str(error)
            refused.add(number)
    assert refused == {int(order[1]) if order[1] != order[0] else int(order[2])}, "the second to begin"
    for generator in generators:
        generator.close()
    assert hook_count(model.decoder) == 0
    assert torch.equal(run(model, ids), want[None])


def test_a_call_inside_a_block_cannot_mistake_its_knowledge() -> None:
    model = make_exact()
    ids = model.tokenize(QUESTIONS[0])["input_ids"]
    for knowledge in KNOWLEDGE:
        with model.injected(knowledge, ids):
            for inner in KNOWLEDGE:
                with pytest.raises(ValueError, match="inside another `injected` block"):
                    model(ids, knowledge=inner)
                with pytest.raises(ValueError, match="call model.decoder inside it"):
                    model.generate(ids, knowledge=inner, max_new_tokens=1)


def test_two_banks_of_one_decoder_do_not_add_up() -> None:
    first = make_model("reader")
    second = make_model("reader", decoder=first.decoder, seed=1)
    ids = first.tokenize(QUESTIONS[0])["input_ids"]
    with first.injected(CASTLE, ids):
        with pytest.raises(ValueError, match="inside another"), second.injected(RIVER, ids):
            pass
        want = run(first, ids)
    assert torch.equal(want, wanted(first, ids, CASTLE, None)[0])


async def held_async(model: Any, ids: Tensor, knowledge: Any) -> AsyncIterator[Tensor]:
    with model.injected(knowledge, ids):
        while True:
            yield run(model, ids)
            await asyncio.sleep(0)


@pytest.mark.parametrize("bank", ["exact", "reader"])
def test_asynchronous_generators_share_nothing_between_tasks_and_are_refused_in_one(bank: str) -> None:
    model = make_exact() if bank == "exact" else make_model(bank)
    ids = model.tokenize(QUESTIONS[0])["input_ids"]
    want = logits_by_knowledge(model, ids)

    async def work(knowledge: Any, steps: int) -> None:
        generator = held_async(model, ids, knowledge)
        for _ in range(steps):
            assert torch.equal(await anext(generator), want[knowledge])
        await generator.aclose()
        await asyncio.sleep(0)
        assert torch.equal(run(model, ids), want[None])

    async def both_in_one_task() -> None:
        first, second = (held_async(model, ids, knowledge) for knowledge in (CASTLE, RIVER))
        assert torch.equal(await anext(first), want[CASTLE])
        with pytest.raises(ValueError, match="inside another"):
            await anext(second)
        assert torch.equal(await anext(first), want[CASTLE])
        await first.aclose()

    async def main() -> None:
        await asyncio.gather(*(work(knowledge, steps) for knowledge in KNOWLEDGE for steps in (1, 2, 4)))
        await both_in_one_task()

    asyncio.run(main())
    assert hook_count(model.decoder) == 0


def test_a_task_that_outlives_its_block_runs_the_bare_decoder() -> None:
    model = make_exact()
    ids = model.tokenize(QUESTIONS[0])["input_ids"]
    want = logits_by_knowledge(model, ids)

    async def read(begun: asyncio.Event, ended: asyncio.Event) -> list[Tensor]:
        inside = run(model, ids)
        begun.set()
        await ended.wait()
        with model.injected(RIVER, ids):
            with_river = run(model, ids)
        return [inside, with_river, run(model, ids)]

    async def main() -> list[Tensor]:
        begun, ended = asyncio.Event(), asyncio.Event()
        with model.injected(CASTLE, ids):
            task = asyncio.create_task(read(begun, ended))  # with a copy of the context
            await begun.wait()
        ended.set()
        return await task

    got = asyncio.run(main())
    assert all(torch.equal(a, want[knowledge]) for a, knowledge in zip(got, (CASTLE, RIVER, None), strict=True))


def test_blocks_in_copied_contexts_may_be_left_in_any_order() -> None:
    model = make_exact()
    ids = model.tokenize(QUESTIONS[0])["input_ids"]
    want = logits_by_knowledge(model, ids)
    for order in itertools.permutations(range(3)):
        contexts = [contextvars.copy_context() for _ in KNOWLEDGE]
        blocks = [model.injected(knowledge, ids) for knowledge in KNOWLEDGE]
        for context, block in zip(contexts, blocks, strict=True):
            context.run(block.__enter__)
        for number in order:
            for other, knowledge in enumerate(KNOWLEDGE):
                expected = want[knowledge] if other in order[order.index(number) :] else want[None]
                assert torch.equal(contexts[other].run(run, model, ids), expected)
            blocks[number].__exit__(None, None, None)  # in this context, not in the one that entered
        assert hook_count(model.decoder) == 0
        assert torch.equal(run(model, ids), want[None])
    assert torch.equal(in_thread(lambda: run(model, ids)), want[None])
