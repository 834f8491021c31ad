"""Edits in every format: of the bank, of the prompt, and of the model that made them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import make_decoder, make_tokenizer, make_trained_parts
from diekae import DiekaeModel, PreparedKnowledge
from diekae.data.batch import pad_left
from diekae.data.formats import FORMATS
from diekae.edit import Edit, edit_model, load_edits
from diekae.inject.cache import cache_in

IN, OUT = "the red house is", "the ship on the sea is"
EDITS = [Edit(IN, "red house", "blue"), Edit("the red house was", "red house", "old")]
SYSTEM = [{"role": "system", "content": "about a question"}, {"role": "user", "content": IN}]
GREEDY: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}


def exact(format: str) -> DiekaeModel:
    decoder = make_decoder(max_position_embeddings=256)
    return DiekaeModel.exact(decoder, make_tokenizer(chat=True), format=format)


def stored(prepared: PreparedKnowledge) -> PreparedKnowledge:
    """What an edit injects: the knowledge as a store keeps it."""
    return PreparedKnowledge.from_bytes(prepared.to_bytes("bf16")).to(dtype=torch.float32)


@torch.no_grad()
def logits_of(model: DiekaeModel, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    logits: Tensor = model(**inputs, **options).logits
    return logits


@pytest.mark.parametrize("of_bank", FORMATS)
@pytest.mark.parametrize("of_prompt", FORMATS)
def test_an_edit_is_the_knowledge_that_is_prepared_for_the_format_of_the_prompt(of_bank: str, of_prompt: str) -> None:
    model = exact(of_bank)
    inside, outside = model.tokenize(IN, of_prompt), model.tokenize(OUT, of_prompt)
    bare = logits_of(model, outside), model.generate(**outside, **GREEDY)
    statements = [edit.statement for edit in reversed(EDITS)]  # the gate gives the newest first
    knowledge = PreparedKnowledge.join([stored(model.prepare(text, format=of_prompt)) for text in statements])
    want = logits_of(model, inside, knowledge=knowledge), model.generate(**inside, knowledge=knowledge, **GREEDY)
    edit_model(model, EDITS)
    assert torch.equal(logits_of(model, inside), want[0])
    assert torch.equal(model.generate(**inside, **GREEDY), want[1])
    assert torch.equal(logits_of(model, outside), bare[0]), "a closed gate leaves every format as it is"
    assert torch.equal(model.generate(**outside, **GREEDY), bare[1])


@pytest.mark.parametrize("of_bank", FORMATS)
def test_rows_of_several_formats_are_edited_as_each_alone(of_bank: str) -> None:
    model = exact(of_bank)
    edit_model(model, EDITS)
    rows = [model.tokenize(text, form)["input_ids"][0].tolist() for text in (IN, OUT) for form in FORMATS]
    ids, mask = pad_left(rows, 0, model.device)
    together = logits_of(model, {"input_ids": ids, "attention_mask": mask})
    for row, logits in zip(rows, together, strict=True):
        alone = logits_of(model, {"input_ids": torch.tensor([row])})[0]
        torch.testing.assert_close(logits[-len(row) :], alone, atol=2e-4, rtol=1e-4)


def test_edits_on_disk_are_loaded_by_a_model_of_another_format(tmp_path: Path) -> None:
    for made_in, asked_in in (("chat", "plain"), ("plain", "chat")):
        edit_model(exact(made_in), EDITS, folder=tmp_path / made_in)
        model, other = exact(asked_in), exact(asked_in)
        load_edits(model, tmp_path / made_in)
        edit_model(other, EDITS)
        inputs = model.tokenize(IN)
        assert torch.equal(logits_of(model, inputs), logits_of(other, inputs))


def test_an_edit_is_prepared_once_for_each_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    model, anchors = exact("chat"), list[tuple[int, ...]]()
    edit_model(model, EDITS[:1])
    prepare = model.prepare_behind

    def count(anchor: tuple[int, ...], text: str) -> PreparedKnowledge:
        anchors.append(anchor)
        return prepare(anchor, text)

    monkeypatch.setattr(model, "prepare_behind", count)
    for form in (*FORMATS, *FORMATS):
        logits_of(model, model.tokenize(IN, form))
    assert anchors == [model.need_prompter().anchor("plain")], "the chat's was stored when the edit was made"


def test_a_cache_keeps_the_anchor_of_its_prompt() -> None:
    model = exact("chat")
    edit_model(model, EDITS)
    inputs, more = model.tokenize(IN, "plain"), torch.tensor([[20, 21, 22]])
    with torch.no_grad():
        first = model(**inputs, use_cache=True)
        steps = model(more, cache=first.cache).logits
    whole = logits_of(model, {"input_ids": torch.cat([inputs["input_ids"], more], 1)})[:, -3:]
    torch.testing.assert_close(steps, whole, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("of_prompt", ["plain", "chat"])
def test_a_cache_of_generate_keeps_the_edits_of_its_prompt(of_prompt: str) -> None:
    model = exact("chat")
    edit_model(model, EDITS)
    inputs, more = model.tokenize(IN, of_prompt), torch.tensor([[20, 21, 22]])
    output = model.generate(**inputs, return_dict_in_generate=True, **GREEDY)
    ids, cached = torch.cat([output.sequences, more], 1), cache_in(output).get_seq_length()
    with torch.no_grad():
        steps = model(ids[:, cached:], cache=cache_in(output)).logits
    whole = logits_of(model, {"input_ids": ids})[:, cached:]
    torch.testing.assert_close(steps, whole, atol=2e-4, rtol=1e-4)


def test_a_cache_of_several_answers_goes_on_by_what_follows() -> None:
    model = exact("chat")
    edit_model(model, EDITS)
    options = {**GREEDY, "num_beams": 2, "num_return_sequences": 2, "return_dict_in_generate": True}
    cache = cache_in(model.generate(**model.tokenize(IN), **options))
    assert logits_of(model, {"input_ids": torch.tensor([[20], [21]])}, cache=cache).shape[0] == 2


def test_knowledge_may_come_in_a_later_turn_of_an_edited_chat() -> None:
    model = exact("chat")
    anchor, rest = model.need_prompter().chat(SYSTEM)
    inputs, more = {"input_ids": torch.tensor([anchor + rest])}, torch.tensor([[20, 21]])
    later, statement = model.prepare("the ship is old"), stored(model.prepare(EDITS[0].statement))
    edit_model(model, EDITS[:1])
    caches = [cache_in(model(**inputs, use_cache=True)) for _ in range(2)]
    got = logits_of(model, {"input_ids": more}, cache=caches[0], knowledge=later)
    model.editor = None
    want = logits_of(model, {"input_ids": more}, cache=caches[1], knowledge=[[later, statement]])
    assert torch.equal(got, want)


def test_an_edit_stands_where_the_knowledge_of_its_row_stands() -> None:
    model = exact("chat")
    prompter = model.need_prompter()
    anchor, rest = prompter.chat(SYSTEM)
    assert anchor[: len(model.anchor)] != model.anchor
    inputs = {"input_ids": torch.tensor([anchor + rest])}
    for behind in (anchor, anchor[:1]):  # the knowledge of a chat may stand before its system prompt
        known, edited = (model.prepare_behind(behind, text) for text in ("the ship is old", EDITS[0].statement))
        want = logits_of(model, inputs, knowledge=[[known, stored(edited)]])
        edit_model(model, EDITS[:1])
        assert torch.equal(logits_of(model, inputs, knowledge=known), want)
        model.editor = None


def test_an_edit_answers_in_a_chat_with_another_system_prompt() -> None:
    model = exact("chat")
    bare = [model.chat(SYSTEM, knowledge=text, **GREEDY) for text in (None, "the ship is old")]
    anchor, _ = model.need_prompter().chat(SYSTEM)
    want = model.chat(SYSTEM, knowledge=stored(model.prepare_behind(anchor, EDITS[0].statement)), **GREEDY)
    edit_model(model, EDITS[:1])
    assert model.chat(SYSTEM, **GREEDY) == want != bare[0]
    assert model.chat(SYSTEM, knowledge="the ship is old", **GREEDY) not in (want, *bare)


def test_an_input_without_an_anchor_is_edited_behind_its_first_token() -> None:
    model = exact("chat")
    inputs = {"input_ids": torch.tensor([model.need_prompter().input(IN, "plain")])}
    first = tuple(inputs["input_ids"][0, :1].tolist())
    want = logits_of(model, inputs, knowledge=stored(model.prepare_behind(first, EDITS[0].statement)))
    edit_model(model, EDITS[:1])
    assert torch.equal(logits_of(model, inputs), want)


def test_the_learned_gate_has_the_same_vectors_in_every_format() -> None:
    models = [exact(form) for form in FORMATS]
    edited = [edit_model(m, EDITS, gate="learned", trained=make_trained_parts(m)) for m in models]
    first, *others = [[entry.vector.tolist() for entry in edits.entries] for edits in edited]
    assert first[0] and others == [first, first]
