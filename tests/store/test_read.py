"""Passages read from a document that was prepared whole, against one run of D in which x sees those tokens alone."""

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from builders import WORDS, make_decoder, make_model, make_tokenizer
from diekae import DiekaeConfig, DiekaeModel, PreparedKnowledge
from diekae.data.prompt import Prompter
from diekae.store import FoundPassage, KnowledgeStore
from readings import CHANGE, OFF, QUESTIONS, make_exact, make_variant, off

TEMPLATES = [
    "{knowledge}",
    "Context: {knowledge}\n\n",
    "</s> of {knowledge} </s> by",
    "</s>{knowledge}",
    "{knowledge} old</s>",
]
TEXTS = [
    "the castle was built by king four. the gate is gold.\n\nthe river has seven dogs. a ship is in the sea.",
    "# Hill\n\nthe </s> tower <s> is </s></s> red.\n\n"
    "| a | <pad> |\n| - | - |\n| six | <unk> |\n\n## Sea\n\n<s>the ship",
    "  the tall café 東京 😀👩‍🚀 e\u0301\n\n\n ß tower   of\tthe sea \n",
]
KINDS = ["words", "bytes", "blank first"]


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """Three ways in which tokens lie over characters: words; bytes with the blank before; a blank put before a text."""
    if kind == "words":
        return make_tokenizer(chat=True)
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(vocab_size=360, initial_alphabet=alphabet, show_progress=False)
    else:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        fallback = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=380, special_tokens=["<unk>", *fallback], show_progress=False)
    tokenizer.train_from_iterator(WORDS * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def model_of(kind: str, template: str, name: str = "llama", **options: Any) -> DiekaeModel:
    decoder = make_variant(name, vocab_size=512, max_position_embeddings=512, **options)
    config = DiekaeConfig.preset("exact", template=template, format="plain")
    return DiekaeModel(decoder, config, tokenizer_of(kind)).eval()


def spans_of(text: str, seed: int, count: int = 3) -> list[tuple[int, int]]:
    """Some pieces of a text, in any order."""
    draw = random.Random(seed)
    return [tuple(sorted(draw.sample(range(len(text) + 1), 2))) for _ in range(draw.randint(1, count))]  # type: ignore[misc]


def as_passages(text: str, spans: Sequence[tuple[int, int]], document: str) -> list[FoundPassage]:
    return [FoundPassage(document, "", "", text[a:b], a, b, 0.0, 0.0, 0.0) for a, b in spans]


# Columns


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_columns_are_the_templates_tokens_and_those_of_the_pieces(kind: str, template: str) -> None:
    """By other means: each character is asked which token it is of."""
    tokenizer = tokenizer_of(kind)
    prompter = Prompter(tokenizer, template)
    before, after = template.split("{knowledge}")
    split = any(token in template for token in ("<s>", "</s>"))
    for text in TEXTS:
        ids = prompter.knowledge(text)
        everything = list(range(len(ids)))
        assert prompter.columns(text, [(0, len(text))]) == everything
        frame = prompter.columns(text, [])
        first = len(tokenizer(before, add_special_tokens=False).input_ids) if split else 0
        last = len(ids) - (len(tokenizer(after, add_special_tokens=False).input_ids) if split else 0)
        lead, tail = ("", "") if split else (before, after)
        encoded = tokenizer(lead + text + tail, add_special_tokens=False, split_special_tokens=True)
        assert encoded.input_ids == list(ids[first:last]), "the text's tokens stand between the template's"
        if split:
            assert set(frame) >= {*range(first), *range(last, len(ids))}
        own: dict[int, set[int]] = {}
        for place in range(len(text)):
            for token in range(len(encoded.input_ids)):
                left, right = encoded.token_to_chars(token) or (0, 0)
                if left <= len(lead) + place < right:
                    own.setdefault(place, set()).add(first + token)
        assert not split or not set(frame) & set().union(*own.values())
        for seed in range(12):
            spans = spans_of(text, seed)
            want = {token for a, b in spans for place in range(a, b) for token in own.get(place, ())}
            assert prompter.columns(text, spans) == sorted(want | set(frame)), spans
        rest = {*everything} - {*frame} - set().union(*own.values())
        assert not rest, "every token is a character's or the template's"


def test_control_tokens_in_a_document_stay_text_and_keep_their_columns() -> None:
    prompter = Prompter(tokenizer_of("bytes"), "</s>{knowledge}")
    text = "the </s> tower"
    ids = prompter.knowledge(text)
    end = tokenizer_of("bytes").eos_token_id
    assert ids.count(end) == 1 and ids[0] == end
    place = text.index("</s>")
    columns = prompter.columns(text, [(place, place + 4)])
    assert tokenizer_of("bytes").decode([ids[column] for column in columns[1:]]).strip() == "</s>"


def test_columns_need_a_tokenizer_that_knows_characters() -> None:
    class Slow:
        is_fast, all_special_tokens = False, ("<s>",)

    with pytest.raises(ValueError, match="need a fast tokenizer"):
        Prompter(Slow(), "{knowledge}").columns("text", [(0, 1)])  # type: ignore[arg-type]


# PreparedKnowledge.take


@pytest.mark.parametrize("encoder", ["attention", "reader", "token"])
def test_all_columns_are_the_whole_memory_and_some_are_its_slots(encoder: str, tmp_path: Path) -> None:
    model = make_model(encoder, decoder=make_decoder(max_position_embeddings=256))
    prepared = model.prepare(TEXTS[0])
    inputs = model.tokenize(QUESTIONS[0])
    want = model(**inputs, knowledge=prepared).logits
    whole = prepared.take(range(len(prepared)))
    assert all(torch.equal(whole.tensors[name], tensor) for name, tensor in prepared.tensors.items())
    assert torch.equal(model(**inputs, knowledge=whole).logits, want)
    some = prepared.take([0, 3, 5])
    assert len(some) == 3 and some.position == prepared.position and some.anchor_ids == prepared.anchor_ids
    for name, tensor in prepared.tensors.items():
        assert torch.equal(some.tensors[name], tensor[:, [0, 3, 5]])
    assert off(model(**inputs, knowledge=some).logits, want) > 1e-3
    again = whole.take([1, 3, 5]).take([2, 0])
    assert all(torch.equal(again.tensors[name], tensor[:, [5, 1]]) for name, tensor in prepared.tensors.items())
    some.save(tmp_path / "some.safetensors")
    loaded = PreparedKnowledge.load(tmp_path / "some.safetensors")
    assert torch.equal(model(**inputs, knowledge=loaded).logits, model(**inputs, knowledge=some).logits)


# Read from a store


@torch.no_grad()
def masked(model: DiekaeModel, documents: Sequence[tuple[str, Sequence[int]]], x: Sequence[int]) -> Tensor:
    """Logits of x in one run of D over anchor, whole documents and x: x's queries see anchor, given columns and x.

    Of several documents each stands behind an anchor of its own and ends where x begins; x sees that of the longest.
    """
    ids, places, owner = list[int](), list[int](), list[int]()
    known = [model.need_prompter().knowledge(text) for text, _ in documents]
    a = len(model.anchor)
    for number, part in enumerate(known):
        ids += [*model.anchor, *part]
        places += range(-len(part), a)
        owner += [number] * (a + len(part))
    ids, places, owner = [*ids, *x], [*places, *range(a, a + len(x))], [*owner, *[len(known)] * len(x)]
    seen = torch.zeros(len(ids), dtype=torch.bool)
    longest = max(range(len(known)), key=lambda number: len(known[number]))
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
    """The template's tokens and the pieces' tokens: :func:`test_columns_are…` shows that these are they."""
    return model.need_prompter().columns(text, spans)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_passages_are_read_as_by_an_x_that_sees_them_alone(kind: str, template: str, tmp_path: Path) -> None:
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
        assert max(changes) > 100 * OFF, "what is left out must matter"


@pytest.mark.parametrize("name", ["mistral", "gpt_neox, half rotary", "qwen3"])
@pytest.mark.parametrize("template", ["{knowledge}", "of {knowledge} by"])
def test_passages_that_are_found_are_read_from_the_store(name: str, template: str, tmp_path: Path) -> None:
    draw = random.Random(4)
    text = "\n\n".join(
        f"## {word}\n\n" + " ".join(draw.choice(WORDS) for _ in range(70)) + "." for word in ("Ship", "Castle", "Dogs")
    )
    model = model_of("words", template, name)
    store = KnowledgeStore(tmp_path / "store", model)
    (document,) = store.add(text).ids
    found = store.search("dogs", 1) + store.search("ship", 1)
    assert [one.heading for one in found] == ["Dogs", "Ship"] and all(one.id == document for one in found)
    x = asked(model, QUESTIONS[1])
    columns = columns_of(model, text, [(one.start, one.end) for one in found])
    assert len(columns) < 0.8 * len(store.prepared(document))
    want = masked(model, [(text, columns)], x)
    assert off(got(model, store.read(found), x), want) <= OFF
    assert off(got(model, store.read(found[::-1]), x), want) <= OFF, "their order is the document's"
    assert off(got(model, store.read(found * 2), x), want) <= OFF, "twice is once"
    assert off(got(model, store.prepared(document), x), want) > CHANGE
    alone = model.prepare("\n\n".join(one.text for one in found[::-1]))
    assert off(got(model, alone, x), want) > 1e-2, "a passage is read with its document before it"


@pytest.mark.parametrize("window", [12, 30])
@pytest.mark.parametrize("template", ["{knowledge}", "of {knowledge} by"])
def test_a_sliding_window_sees_of_anchor_and_passages_what_is_near(template: str, window: int, tmp_path: Path) -> None:
    model = model_of("words", template, "mistral", sliding_window=window)
    store = KnowledgeStore(tmp_path / "store", model)
    text = " ".join(WORDS[:40])
    (document,) = store.add(text).ids
    x = asked(model, " ".join(WORDS[50:58]))
    for start, end in ((150, 170), (0, 12), (len(text) - 20, len(text))):
        want = masked(model, [(text, columns_of(model, text, [(start, end)]))], x)
        prepared = store.read(as_passages(text, [(start, end)], document))
        assert off(got(model, prepared, x), want) <= OFF, (start, end)
        prepared.save(tmp_path / "saved.safetensors")
        assert off(got(model, PreparedKnowledge.load(tmp_path / "saved.safetensors"), x), want) <= OFF, (
            "also when it was saved"
        )


def test_passages_of_several_documents_are_read_together_behind_the_anchor_of_the_longest(tmp_path: Path) -> None:
    decoder = make_variant("mistral", vocab_size=512, max_position_embeddings=512, sliding_window=30)
    model = make_exact(decoder, encoder_options={"sharpness": 1.0})
    store = KnowledgeStore(tmp_path / "store", model)
    texts = [" ".join(WORDS[:20]), " ".join(WORDS[20:60]), " ".join(WORDS[60:75])]
    ids = store.add(texts).ids
    spans = [[(0, 15)], [(40, 60), (120, 140)], [(30, 50)]]
    x = asked(model, QUESTIONS[2])
    found = [
        one for text, own, document in zip(texts, spans, ids, strict=True) for one in as_passages(text, own, document)
    ]
    parts = [(text, columns_of(model, text, own)) for text, own in zip(texts, spans, strict=True)]
    want = masked(model, parts, x)
    assert off(got(model, store.read(found), x), want) <= OFF
    assert off(got(model, store.read([found[2], found[3], found[0], found[1]]), x), want) <= OFF
    assert off(got(model, store.prepared(*ids), x), want) > CHANGE


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_passages_are_read_in_every_precision(precision: str, tmp_path: Path) -> None:
    model = model_of("bytes", TEMPLATES[1])
    exact = KnowledgeStore(tmp_path / "exact", model)
    store = KnowledgeStore(tmp_path / "store", model, precision=precision)
    for one in (exact, store):
        one.add(TEXTS[0])
    found = exact.search("castle", 1)
    want, near = exact.read(found), store.read(found)
    columns = columns_of(model, TEXTS[0], [(found[0].start, found[0].end)])
    assert len(near) == len(want) == len(columns)
    for name, tensor in want.tensors.items():
        torch.testing.assert_close(near.tensors[name].float(), tensor, atol=0.1, rtol=0.02)
        assert torch.equal(near.tensors[name], store.prepared(found[0].id).tensors[name][:, columns])


def test_generation_with_passages_is_that_of_the_masked_run(tmp_path: Path) -> None:
    model = model_of("words", TEMPLATES[1])
    store = KnowledgeStore(tmp_path / "store", model)
    (document,) = store.add(TEXTS[0]).ids
    spans, x = [(0, 30)], asked(model, QUESTIONS[0])
    prepared = store.read(as_passages(TEXTS[0], spans, document))
    ids = torch.tensor([[*model.anchor, *x]])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), knowledge=prepared, max_new_tokens=6, do_sample=False
    )
    for _ in range(6):
        parts = [(TEXTS[0], columns_of(model, TEXTS[0], spans))]
        x.append(int(masked(model, parts, x)[-1].argmax()))
    assert made[0, 1:].tolist() == x[: made.shape[1] - 1] and made.shape[1] > ids.shape[1]
