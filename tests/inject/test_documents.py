"""Several documents, and knowledge that is added or changed in a later turn, against one masked run of D.

The mask says who sees whom, so that one run of the decoder holds documents that do not know of each other.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from diekae import DiekaeModel, PreparedKnowledge
from diekae.prepare import PART, read_documents
from readings import CASTLE, CHANGE, OFF, QUESTIONS, RIVER, SHIP, exact_model, make_exact, make_variant, off

KINDS = pytest.mark.parametrize("name", ["llama", "qwen3", "phi3", "gpt_neox, half rotary", "cohere", "mixtral"])
WINDOWED = pytest.mark.parametrize("name", ["llama", "gemma3, alternating", "mistral, window shorter than K"])


class Part(NamedTuple):
    """Some columns of the masked run."""

    ids: Sequence[int]
    first: int
    """Position of the first column."""
    sees: tuple[int, ...] = ()
    """Earlier parts that it sees."""


@torch.no_grad()
def masked_run(model: DiekaeModel, parts: Sequence[Part]) -> list[Tensor]:
    """Run D once over all parts in their order; return the logits of each."""
    owner = torch.tensor([number for number, part in enumerate(parts) for _ in part.ids])
    sees = torch.tensor([[other in part.sees for other in range(len(parts))] for part in parts])
    causal = torch.ones(len(owner), len(owner), dtype=torch.bool).tril()
    mask = sees[owner][:, owner] | (owner[:, None] == owner) & causal
    positions = torch.tensor([part.first + n for part in parts for n in range(len(part.ids))])
    logits = model.decoder(
        input_ids=torch.tensor([[token for part in parts for token in part.ids]]),
        position_ids=(positions - positions.min())[None],
        attention_mask=mask[None, None],
    ).logits[0]
    return list(logits.split([len(part.ids) for part in parts]))


def document(model: DiekaeModel, text: str, number: int) -> list[Part]:
    """Anchor and document as parts ``number`` and ``number + 1``: the document ends where x begins."""
    known, a = model.need_prompter().knowledge(text), len(model.anchor)
    return [Part(model.anchor, -len(known)), Part(known, a - len(known), (number,))]


def tokens(model: DiekaeModel, question: str) -> list[int]:
    """Tokens of x after its anchor."""
    return model.tokenize(question)["input_ids"][0, len(model.anchor) :].tolist()


def logits_of(model: DiekaeModel, ids: Sequence[int], knowledge: Any, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]), knowledge=knowledge, **options).logits[0]


def same(one: PreparedKnowledge, other: PreparedKnowledge) -> bool:
    return one.to_bytes() == other.to_bytes()


# Several documents


@KINDS
def test_documents_prepared_apart_keep_their_distance_to_x_and_share_one_anchor(name: str) -> None:
    model = exact_model(name)
    x, a = tokens(model, QUESTIONS[0]), len(model.anchor)
    texts = (RIVER, CASTLE, SHIP)  # the longest in the middle
    parts = [part for n, text in enumerate(texts) for part in document(model, text, 2 * n)]
    want = masked_run(model, [*parts, Part(x, a, (2, 1, 3, 5))])[-1]
    bare = logits_of(model, [*model.anchor, *x], None)[a:]
    alone = logits_of(model, [*model.anchor, *x], CASTLE)[a:]
    assert off(want, bare) > CHANGE and off(want, alone) > CHANGE
    assert off(logits_of(model, [*model.anchor, *x], [list(texts)])[a:], want) <= OFF


@WINDOWED
def test_the_order_of_documents_does_not_matter(name: str) -> None:
    model = exact_model(name)
    ids = [*model.anchor, *tokens(model, QUESTIONS[0])]
    want = logits_of(model, ids, [[CASTLE, RIVER, SHIP]])
    for order in ([SHIP, CASTLE, RIVER], [RIVER, SHIP, CASTLE]):
        assert off(logits_of(model, ids, [order]), want) <= 1e-5
    assert off(logits_of(model, ids, [[CASTLE, RIVER]]), want) > 1e-3


@WINDOWED
def test_joined_documents_keep_their_slots_and_share_one_anchor(name: str) -> None:
    model = exact_model(name)
    alone = [model.prepare(text) for text in (SHIP, CASTLE, RIVER)]
    together = PreparedKnowledge.join(alone)
    assert same(together, model.prepare([SHIP, CASTLE, RIVER]))
    assert len(together) == sum(map(len, alone)) and together.token_count == len(alone[1])
    start = 0
    for prepared in alone:
        columns = slice(start, start + len(prepared))
        for kind, slots in prepared.tensors.items():
            assert torch.equal(together.tensors[kind][:, columns], slots)
        assert prepared.positions is not None and together.positions is not None
        assert torch.equal(together.positions[columns], prepared.positions)
        assert prepared.positions.tolist() == list(range(1 - len(prepared), 1)), "it ends where x begins, at 1"
        start += len(prepared)
    for kind, slots in together.anchor.items():
        assert slots.shape[1] == len(model.anchor) == 1
        assert torch.equal(slots, alone[1].anchor[kind]), "that of the longest"


def test_documents_are_joined_one_by_one_or_at_once() -> None:
    model = exact_model("llama")
    one, other, third = (model.prepare(text) for text in (SHIP, CASTLE, RIVER))
    assert PreparedKnowledge.join([one]) is one
    in_steps = PreparedKnowledge.join([PreparedKnowledge.join([one, other]), third])
    assert same(in_steps, PreparedKnowledge.join([one, other, third]))


def test_documents_prepared_in_one_batch_equal_those_prepared_alone() -> None:
    model = exact_model("llama")
    all_prepared = model.prepare_many([SHIP, CASTLE, RIVER], batch_size=3)
    for text, prepared in zip((SHIP, CASTLE, RIVER), all_prepared, strict=True):
        alone = model.prepare(text)
        for kind, slots in alone.tensors.items():
            torch.testing.assert_close(prepared.tensors[kind], slots, atol=1e-5, rtol=1e-5)
        assert torch.equal(prepared.positions, alone.positions)


def test_documents_behind_different_anchors_are_not_joined() -> None:
    model = exact_model("llama")
    known = model.need_prompter().knowledge(SHIP)
    all_prepared = [read_documents(model.attached, anchor, [known])[0] for anchor in ((1,), (1, 17))]
    with pytest.raises(ValueError, match="different anchors .*prepare them in one format"):
        PreparedKnowledge.join(all_prepared)


def test_x_must_begin_with_the_anchor_of_its_knowledge() -> None:
    model = exact_model("llama")
    (prepared,) = read_documents(model.attached, (1, 17, 5), [model.need_prompter().knowledge(CASTLE)])
    with pytest.raises(ValueError, match=r"begins with tokens \(1, 9, 8\), but its knowledge was read after"):
        logits_of(model, [1, 9, 8, 7], prepared)
    assert logits_of(model, [1, 17, 5, 7], prepared).isfinite().all()


# Longer than the window


@pytest.mark.parametrize("own_anchor", [False, True])
@pytest.mark.parametrize("length", [61, 63, 64, 100, 200, 300])
@pytest.mark.parametrize("chunk_size", [None, 13])
def test_no_slot_is_farther_away_than_the_window(length: int, chunk_size: int | None, own_anchor: bool) -> None:
    model, window = make_exact(make_variant("llama", max_position_embeddings=64)), 64
    anchor = (1, 17, 5)
    known = [4 + n % 100 for n in range(length)]
    attached = replace(model.attached, own_anchor=own_anchor)
    (prepared,) = read_documents(attached, anchor, [known], chunk_size=chunk_size)
    assert prepared.positions is not None and len(prepared) == length
    assert prepared.positions.max() == (-1 if own_anchor else 2), "it ends where x begins"
    assert prepared.token_count + len(anchor) <= window
    assert int(prepared.positions.min()) - len(anchor) == -prepared.token_count - (3 if own_anchor else 0), (
        "the anchor's first"
    )
    if length > window:  # read in parts, with room for x after each
        assert prepared.token_count <= PART * (window - len(anchor))
        assert int((prepared.positions == prepared.positions.max()).sum()) == -(
            -length // int(PART * (window - len(anchor)))
        )


def test_a_document_longer_than_the_window_equals_its_joined_parts() -> None:
    model = make_exact(make_variant("llama", max_position_embeddings=64))
    known = [4 + n % 100 for n in range(100)]
    whole, *parts = read_documents(model.attached, (1,), [known, known[:34], known[34:68], known[68:]])
    joined = PreparedKnowledge.join(parts)
    for kind, slots in whole.tensors.items():
        torch.testing.assert_close(joined.tensors[kind], slots, atol=1e-5, rtol=1e-5)
    assert torch.equal(joined.positions, whole.positions) and joined.token_count == whole.token_count == 34


# Later turns


@torch.no_grad()
def in_turns(model: DiekaeModel, turns: Sequence[tuple[Sequence[int], Any]]) -> Tensor:
    """Logits of the last turn; each turn has its own knowledge, and the cache of the earlier turns."""
    cache = DynamicCache(config=model.decoder.config)
    for ids, knowledge in turns:
        logits = model(torch.tensor([ids]), knowledge=knowledge, cache=cache, use_cache=True).logits
    return logits[0]


@KINDS
def test_knowledge_of_a_later_turn_precedes_all_of_x_and_is_hidden_from_earlier_columns(name: str) -> None:
    model = exact_model(name)
    a, first, last = len(model.anchor), tokens(model, QUESTIONS[0]), tokens(model, QUESTIONS[2])
    old = Part([*model.anchor, *first], 0)
    parts = [*document(model, CASTLE, 0), Part(model.anchor, 0), Part(first, a, (2,))]
    want = masked_run(model, [*parts, Part(last, a + len(first), (0, 1, 3))])[-1]
    bare = masked_run(model, [old, Part(last, a + len(first), (0,))])[-1]
    got = in_turns(model, [([*model.anchor, *first], None), (last, CASTLE)])
    assert off(want, bare) > CHANGE
    assert off(got, want) <= OFF


@WINDOWED
def test_a_later_turn_equals_a_full_run_whose_earlier_columns_receive_nothing(name: str) -> None:
    model = exact_model(name)
    first, last = [*model.anchor, *tokens(model, QUESTIONS[0])], tokens(model, QUESTIONS[2])
    mask = torch.tensor([[False] * len(first) + [True] * len(last)])
    want = logits_of(model, [*first, *last], CASTLE, injection_mask=mask)
    everywhere = logits_of(model, [*first, *last], CASTLE)
    assert torch.equal(want[: len(first)], logits_of(model, [*first, *last], None)[: len(first)])
    got = in_turns(model, [(first, None), (last, CASTLE)])
    assert off(got, want[len(first) :]) <= OFF
    assert off(got, everywhere[len(first) :]) > 1e-3
    one_by_one = in_turns(model, [(first, None), *(([token], CASTLE) for token in last)])
    assert off(one_by_one[-1], want[-1]) <= OFF


@KINDS
def test_knowledge_that_changes_between_turns_is_read_only_by_new_columns(name: str) -> None:
    model = exact_model(name)
    a, turns = len(model.anchor), [tokens(model, question) for question in QUESTIONS]
    starts = [a, a + len(turns[0]), a + len(turns[0]) + len(turns[1])]
    castle, river = document(model, CASTLE, 0), document(model, RIVER, 2)
    parts = [*castle, *river, Part(turns[0], starts[0], (0, 1)), Part(turns[1], starts[1], (2, 3, 4))]
    parts.append(Part(turns[2], starts[2], (0, 1, 4, 5)))
    want = masked_run(model, parts)[-1]
    first = [*model.anchor, *turns[0]]
    got = in_turns(model, [(first, CASTLE), (turns[1], RIVER), (turns[2], CASTLE)])
    assert off(got, want) <= OFF
    assert off(got, in_turns(model, [(first, CASTLE), (turns[1], CASTLE), (turns[2], CASTLE)])) > 1e-3
    assert off(got, in_turns(model, [(first, CASTLE), (turns[1], RIVER), (turns[2], RIVER)])) > 1e-3


@WINDOWED
def test_generation_continues_after_a_turn_without_knowledge(name: str) -> None:
    model = exact_model(name)
    first, last = [*model.anchor, *tokens(model, QUESTIONS[0])], tokens(model, QUESTIONS[2])
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "output_logits": True}
    options["return_dict_in_generate"] = True
    ids, cache = torch.tensor([[*first, *last]]), DynamicCache(config=model.decoder.config)
    with torch.no_grad():
        model(torch.tensor([first]), cache=cache, use_cache=True)
    found = model.generate(ids, knowledge=CASTLE, cache=cache, **options)
    receives = torch.arange(found.sequences.shape[1])[None] >= len(first)
    want = logits_of(model, found.sequences[0].tolist(), CASTLE, injection_mask=receives)[ids.shape[1] - 1 : -1]
    assert off(torch.cat(found.logits), want) <= OFF
    everywhere = model.generate(ids, knowledge=CASTLE, **options)
    assert off(everywhere.logits[0], found.logits[0]) > 1e-3
