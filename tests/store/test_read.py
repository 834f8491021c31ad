"""Passages of a prepared document, compared with one run of D in which x sees only the tokens of these passages."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import WORDS, make_decoder, make_model
from diekae import DiekaeConfig, DiekaeModel, PreparedKnowledge
from diekae.store import FoundPassage, KnowledgeStore
from readings import CHANGE, OFF, QUESTIONS, make_exact, make_variant, off
from tokenizations import KINDS, TEMPLATES, TEXTS, spans_of, tokenizer_of


def model_of(kind: str, template: str, name: str = "llama", **options: Any) -> DiekaeModel:
    decoder = make_variant(name, vocab_size=512, max_position_embeddings=512, **options)
    config = DiekaeConfig.preset("exact", template=template, format="plain")
    return DiekaeModel(decoder, config, tokenizer_of(kind)).eval()


def as_passages(text: str, spans: Sequence[tuple[int, int]], document: str) -> list[FoundPassage]:
    return [FoundPassage(document, "", "", text[a:b], a, b, 0.0, 0.0, 0.0, 1, "static") for a, b in spans]


@pytest.mark.parametrize("encoder", ["attention", "reader", "token"])
def test_taking_all_columns_changes_nothing_and_taking_some_keeps_their_slots(encoder: str, tmp_path: Path) -> None:
    model = make_model(encoder, decoder=make_decoder(max_position_embeddings=256))
    prepared = model.prepare(TEXTS[0])
    inputs = model.tokenize(QUESTIONS[0])
    want = model(**inputs, knowledge=prepared).logits
    whole = prepared.take(range(len(prepared)))
    assert all(torch.equal(whole.tensors[name], tensor) for name, tensor in prepared.tensors.items())
    assert torch.equal(model(**inputs, knowledge=whole).logits, want)
    some = prepared.take([0, 3, 5])
    assert len(some) == 3 and some.token_count == prepared.token_count and some.anchor_ids == prepared.anchor_ids
    for name, tensor in prepared.tensors.items():
        assert torch.equal(some.tensors[name], tensor[:, [0, 3, 5]])
    assert off(model(**inputs, knowledge=some).logits, want) > 1e-3
    again = whole.take([1, 3, 5]).take([2, 0])
    assert all(torch.equal(again.tensors[name], tensor[:, [5, 1]]) for name, tensor in prepared.tensors.items())
    some.save(tmp_path / "some.safetensors")
    loaded = PreparedKnowledge.load(tmp_path / "some.safetensors")
    assert torch.equal(model(**inputs, knowledge=loaded).logits, model(**inputs, knowledge=some).logits)


@torch.no_grad()
def masked(model: DiekaeModel, documents: Sequence[tuple[str, Sequence[int]]], x: Sequence[int]) -> Tensor:
    """Return the logits of x in one run of D over anchor, documents and x, where x sees anchor, the columns and x.

    Each of several documents is after its own anchor and ends where x begins. x sees the anchor of the longest.
    """
    ids, places, owner = list[int](), list[int](), list[int]()
    knowledge_ids = [model.need_prompter().knowledge(text) for text, _ in documents]
    a = len(model.anchor)
    for number, part in enumerate(knowledge_ids):
        ids += [*model.anchor, *part]
        places += range(-len(part), a)
        owner += [number] * (a + len(part))
    ids, places, owner = [*ids, *x], [*places, *range(a, a + len(x))], [*owner, *[len(knowledge_ids)] * len(x)]
    seen = torch.zeros(len(ids), dtype=torch.bool)
    longest = max(range(len(knowledge_ids)), key=lambda number: len(knowledge_ids[number]))
    for number, (_, columns) in enumerate(documents):
        begin = owner.index(number)
        seen[begin : begin + a] = number == longest
        seen[[begin + a + column for column in columns]] = True
    who, at = torch.tensor(owner), torch.tensor(places)
    causal = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    mask = (who[:, None] == who) & causal
    mask[-len(x) :, : -len(x)] = seen[: -len(x)]
    if (window := getattr(model.decoder.config, "sliding_window", None)) is not None:
        mask &= at[:, None] - at < window
    logits = model.decoder(
        input_ids=torch.tensor([ids]), position_ids=(at - at.min())[None], attention_mask=mask[None, None]
    ).logits
    return logits[0, -len(x) :]


@torch.no_grad()
def got(model: DiekaeModel, prepared: PreparedKnowledge, x: Sequence[int]) -> Tensor:
    return model(torch.tensor([[*model.anchor, *x]]), knowledge=prepared).logits[0, len(model.anchor) :]


def asked(model: DiekaeModel, question: str) -> list[int]:
    return list(model.need_prompter().input(question))


def columns_of(model: DiekaeModel, text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return the columns of the template and of the spans, as `test_columns_are_the_tokens…` checks them."""
    return model.need_prompter().columns(text, spans)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_reading_passages_equals_masking_the_rest_of_the_document(kind: str, template: str, tmp_path: Path) -> None:
    model = model_of(kind, template)
    store = KnowledgeStore(tmp_path / "store", model)
    x = asked(model, QUESTIONS[0])
    for number, text in enumerate(TEXTS):
        (document,) = store.add(text).ids
        whole = masked(model, [(text, range(len(model.need_prompter().knowledge(text))))], x)
        assert off(got(model, store.prepared(document), x), whole) <= OFF
        changes = []
        for seed in range(3):
            spans = spans_of(text, 10 * number + seed)
            want = masked(model, [(text, columns_of(model, text, spans))], x)
            assert off(got(model, store.read(as_passages(text, spans, document)), x), want) <= OFF
            changes.append(off(want, whole))
        assert max(changes) > 100 * OFF, "the left-out tokens must matter"


@pytest.mark.parametrize("name", ["mistral", "gpt_neox, half rotary", "qwen3"])
@pytest.mark.parametrize("template", ["{knowledge}", "of {knowledge} by"])
def test_reading_found_passages_equals_masking_the_rest(name: str, template: str, tmp_path: Path) -> None:
    draw = random.Random(4)
    text = "\n\n".join(
        f"## {word}\n\n" + " ".join(draw.choice(WORDS) for _ in range(70)) + "." for word in ("Ship", "Castle", "Dogs")
    )
    model = model_of("words", template, name)
    store = KnowledgeStore(tmp_path / "store", model)
    (document,) = store.add(text).ids
    passages = store.search("dogs", 1) + store.search("ship", 1)
    assert [passage.heading for passage in passages] == ["Dogs", "Ship"] and all(
        passage.id == document for passage in passages
    )
    x = asked(model, QUESTIONS[1])
    columns = columns_of(model, text, [(passage.start, passage.end) for passage in passages])
    assert len(columns) < 0.8 * len(store.prepared(document))
    expected = masked(model, [(text, columns)], x)
    assert off(got(model, store.read(passages), x), expected) <= OFF
    assert off(got(model, store.read(passages[::-1]), x), expected) <= OFF, "the order of the passages does not matter"
    assert off(got(model, store.read(passages * 2), x), expected) <= OFF, "a repeated passage counts once"
    assert off(got(model, store.prepared(document), x), expected) > CHANGE
    alone = model.prepare("\n\n".join(passage.text for passage in passages[::-1]))
    assert off(got(model, alone, x), expected) > 1e-2, "a passage is read with the text before it"


@pytest.mark.parametrize("window", [12, 30])
@pytest.mark.parametrize("template", ["{knowledge}", "of {knowledge} by"])
def test_a_sliding_window_also_limits_anchor_and_taken_slots(template: str, window: int, tmp_path: Path) -> None:
    model = model_of("words", template, "mistral", sliding_window=window)
    text = " ".join(WORDS[:40])
    prepared, x = model.prepare(text), asked(model, " ".join(WORDS[50:58]))
    for start, end in ((150, 170), (0, 12), (len(text) - 20, len(text))):
        columns = columns_of(model, text, [(start, end)])
        expected, taken = masked(model, [(text, columns)], x), prepared.take(columns)
        assert off(got(model, taken, x), expected) <= OFF, (start, end)
        taken.save(tmp_path / "saved.safetensors")
        assert off(got(model, PreparedKnowledge.load(tmp_path / "saved.safetensors"), x), expected) <= OFF, (
            "the same after saving and loading"
        )


@torch.no_grad()
@pytest.mark.parametrize("window", [12, 30])
@pytest.mark.parametrize("template", ["{knowledge}", "of {knowledge} by"])
def test_passages_that_a_sliding_window_would_hide_are_moved_up_to_x(
    template: str, window: int, tmp_path: Path
) -> None:
    """In a decoder of one layer, slots know nothing of each other: passages read as if they stood in the prompt."""
    model = model_of("words", template, "mistral", sliding_window=window, num_hidden_layers=1)
    store = KnowledgeStore(tmp_path / "store", model)
    text = " ".join(WORDS[:40])
    (document,) = store.add(text).ids
    x = asked(model, " ".join(WORDS[50:58]))
    known = model.need_prompter().knowledge(text)
    for spans in ([(150, 170)], [(0, 12)], [(0, 12), (90, 110)], [(len(text) - 20, len(text))]):
        tokens = [known[column] for column in columns_of(model, text, spans)]
        ids = torch.tensor([[*model.anchor, *tokens, *x]])
        prepared = store.read(as_passages(text, spans, document))
        assert off(got(model, prepared, x), model.decoder(input_ids=ids).logits[0, -len(x) :]) <= OFF, spans
        prepared.save(tmp_path / "saved.safetensors")
        loaded = PreparedKnowledge.load(tmp_path / "saved.safetensors")
        assert torch.equal(got(model, loaded, x), got(model, prepared, x)), "the same after saving and loading"


@pytest.mark.parametrize(("name", "options"), [("llama", {}), ("mistral", {"sliding_window": 400})])
def test_passages_keep_their_places_where_no_window_is_too_short(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = model_of("words", "{knowledge}", name, **options)
    prepared = model.prepare(" ".join(WORDS[:40]))
    kept, got_slots = prepared.take([3, 7]), model.excerpt(prepared, [3, 7])
    assert got_slots.positions is not None and kept.positions is not None
    assert got_slots.positions.equal(kept.positions)
    assert got_slots.tensors["keys"].equal(kept.tensors["keys"])


def test_a_whole_document_is_never_moved() -> None:
    model = model_of("words", "{knowledge}", "gemma3, alternating")
    prepared = model.prepare(" ".join(WORDS[:40]))
    whole = model.excerpt(prepared, range(len(prepared)))
    assert whole.tensors["keys"].equal(prepared.tensors["keys"])
    assert not model.excerpt(prepared, range(5)).tensors["keys"].equal(prepared.take(range(5)).tensors["keys"])


def test_passages_of_several_documents_share_the_anchor_of_the_longest(tmp_path: Path) -> None:
    decoder = make_variant("llama", vocab_size=512, max_position_embeddings=512)
    model = make_exact(decoder)
    store = KnowledgeStore(tmp_path / "store", model)
    texts = [" ".join(WORDS[:20]), " ".join(WORDS[20:60]), " ".join(WORDS[60:75])]
    ids = store.add(texts).ids
    spans = [[(0, 15)], [(40, 60), (120, 140)], [(30, 50)]]
    x = asked(model, QUESTIONS[2])
    passages = [
        passage
        for text, own_spans, id in zip(texts, spans, ids, strict=True)
        for passage in as_passages(text, own_spans, id)
    ]
    parts = [(text, columns_of(model, text, own_spans)) for text, own_spans in zip(texts, spans, strict=True)]
    expected = masked(model, parts, x)
    assert off(got(model, store.read(passages), x), expected) <= OFF
    assert off(got(model, store.read([passages[2], passages[3], passages[0], passages[1]]), x), expected) <= OFF
    assert off(got(model, store.prepared(*ids), x), expected) > CHANGE


def test_taken_slots_of_several_documents_share_the_anchor_that_a_window_hides() -> None:
    decoder = make_variant("mistral", vocab_size=512, max_position_embeddings=512, sliding_window=30)
    model = make_exact(decoder)
    texts = [" ".join(WORDS[:20]), " ".join(WORDS[20:60]), " ".join(WORDS[60:75])]
    spans = [[(0, 15)], [(40, 60), (120, 140)], [(30, 50)]]
    x = asked(model, QUESTIONS[2])
    parts = [(text, columns_of(model, text, own_spans)) for text, own_spans in zip(texts, spans, strict=True)]
    taken = [model.prepare(text).take(columns) for text, columns in parts]
    expected = masked(model, parts, x)
    assert off(got(model, PreparedKnowledge.join(taken), x), expected) <= OFF
    assert off(got(model, PreparedKnowledge.join(taken[::-1]), x), expected) <= OFF


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_passages_are_read_in_every_precision(precision: str, tmp_path: Path) -> None:
    model = model_of("bytes", TEMPLATES[1])
    exact = KnowledgeStore(tmp_path / "exact", model)
    store = KnowledgeStore(tmp_path / "store", model, precision=precision)
    for opened_store in (exact, store):
        opened_store.add(TEXTS[0])
    passages = exact.search("castle", 1)
    expected, near = exact.read(passages), store.read(passages)
    columns = columns_of(model, TEXTS[0], [(passages[0].start, passages[0].end)])
    assert len(near) == len(expected) == len(columns)
    for name, tensor in expected.tensors.items():
        torch.testing.assert_close(near.tensors[name].float(), tensor, atol=0.1, rtol=0.02)
        assert torch.equal(near.tensors[name], store.prepared(passages[0].id).tensors[name][:, columns])


def test_generation_with_passages_equals_that_of_a_masked_run(tmp_path: Path) -> None:
    model = model_of("words", TEMPLATES[1])
    store = KnowledgeStore(tmp_path / "store", model)
    (document,) = store.add(TEXTS[0]).ids
    spans, x = [(0, 30)], asked(model, QUESTIONS[0])
    prepared = store.read(as_passages(TEXTS[0], spans, document))
    ids = torch.tensor([[*model.anchor, *x]])
    answer_ids = model.generate(
        ids, attention_mask=torch.ones_like(ids), knowledge=prepared, max_new_tokens=6, do_sample=False
    )
    for _ in range(6):
        parts = [(TEXTS[0], columns_of(model, TEXTS[0], spans))]
        x.append(int(masked(model, parts, x)[-1].argmax()))
    assert answer_ids[0, 1:].tolist() == x[: answer_ids.shape[1] - 1] and answer_ids.shape[1] > ids.shape[1]


@torch.no_grad()
def test_passages_are_moved_up_before_an_anchor_of_xs_own() -> None:
    decoder = make_variant("mistral", vocab_size=512, sliding_window=30, num_hidden_layers=1)
    config = DiekaeConfig.preset("exact", template="{knowledge}", format="plain", anchor="own")
    model = DiekaeModel(decoder, config, tokenizer_of("words")).eval()
    x, text = asked(model, QUESTIONS[0]), " ".join(WORDS[:40])
    known, columns = model.need_prompter().knowledge(text), [0, 1, 20, 21, 22]
    ids = torch.tensor([[*model.anchor, *(known[column] for column in columns), *model.anchor, *x]])
    prepared = model.excerpt(model.prepare(text), columns)
    assert off(got(model, prepared, x), model.decoder(input_ids=ids).logits[0, -len(x) :]) <= OFF
