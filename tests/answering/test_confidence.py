"""The confidence of what the decoder reads: its states, its value, and when an answer counts."""

import math
from pathlib import Path

import pytest
import torch

from answering.test_answer import SHIP, TEMPLATE, TOWER
from builders import make_decoder, make_model, make_tokenizer, make_trained_parts
from diekae import DiekaeModel, KnowledgeStore
from diekae.answering import ask, pick, reading_confidence
from diekae.answering.confidence import Confidence, confidence_of
from diekae.answering.reading_confidence import (
    ReadingConfidence,
    question_states,
    read_fitted,
    reading_confidence_for,
    write_fitted,
)
from diekae.data.batch import pad_left
from diekae.edit import Edit, edit_model
from diekae.models import load_decoder

QUESTION = "who made the tall tower"
STONE = "the tall tower is made of stone by the king."
LAYER = 1


@pytest.fixture(params=["chat", "qa"])
def model(request: pytest.FixtureRequest) -> DiekaeModel:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return DiekaeModel.exact(make_decoder("llama"), tokenizer, format=request.param)


@pytest.fixture
def fitted(model: DiekaeModel, monkeypatch: pytest.MonkeyPatch) -> ReadingConfidence:
    """A confidence that came, as it were, with the package."""
    width = model.decoder.config.hidden_size
    weights = torch.randn(width, generator=torch.Generator().manual_seed(0)).tolist()
    fitted = ReadingConfidence(model.bank.decoder, model.config.format, LAYER, tuple(weights), (2.0, -0.5, 0.25), 0.5)
    monkeypatch.setattr(reading_confidence, "_shipped", lambda: {(fitted.decoder, fitted.format): fitted})
    return fitted


@pytest.fixture
def store(model: DiekaeModel, tmp_path: Path) -> KnowledgeStore:
    store = KnowledgeStore(tmp_path / "store", model)
    store.add([TOWER, SHIP])
    return store


def prompted_states(model: DiekaeModel, text: str, question: str) -> torch.Tensor:
    """The mean state of the question's tokens with the whole text in the prompt."""
    prompter = model.need_prompter()
    asked = prompter.input(question)
    ids = torch.tensor([[*model.anchor, *prompter.knowledge(text), *asked]])
    with torch.no_grad():
        states = model.decoder(input_ids=ids, output_hidden_states=True).hidden_states[LAYER + 1]
    return states[0, -len(asked) :].mean(0)


def test_the_states_are_those_with_the_text_in_the_prompt_in_every_row(model: DiekaeModel) -> None:
    prompter = model.need_prompter()
    questions = [QUESTION, "is the ship blue and where does it sail"]
    inputs = [prompter.input(question) for question in questions]
    ids, mask = pad_left([[*model.anchor, *tokens] for tokens in inputs], 0, model.device)
    with torch.no_grad(), question_states(model, LAYER, [len(tokens) for tokens in inputs]) as states:
        with model.call_context([STONE, SHIP], ids, mask):
            model.decoder(input_ids=ids, attention_mask=mask)
            model.decoder(input_ids=ids.clamp(max=7), attention_mask=mask)  # only the first forward counts
    (found,) = states
    for row, text, question in zip(found, (STONE, SHIP), questions, strict=True):
        torch.testing.assert_close(row, prompted_states(model, text, question), atol=1e-5, rtol=1e-4)


def test_an_answer_has_the_confidence_of_what_was_read(
    model: DiekaeModel, store: KnowledgeStore, fitted: ReadingConfidence
) -> None:
    store.add(STONE)  # one passage, so all of it is read
    answer = ask(model, QUESTION, store, documents=[STONE], max_new_tokens=4)
    (passage,) = pick(store, QUESTION, documents=[STONE])
    logit = float(torch.tensor(fitted.weights) @ prompted_states(model, STONE, QUESTION))
    logit += 2 * passage.coverage - 0.5 * math.log(passage.searched) + 0.25
    assert answer.confidence == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-4)
    assert answer.answered == (answer.confidence >= 0.5) and answer.confidence != confidence_of([passage])


def test_reading_alone_gives_the_same_confidence(
    model: DiekaeModel, store: KnowledgeStore, fitted: ReadingConfidence
) -> None:
    passages = pick(store, QUESTION)
    confidence = Confidence(model, QUESTION, passages)
    assert confidence.value == confidence_of(passages), "nothing is read yet"
    confidence.read(model.tokenize(QUESTION)["input_ids"], store.read(passages))
    assert confidence.value == pytest.approx(ask(model, QUESTION, store, max_new_tokens=2).confidence, abs=1e-5)


def test_listening_changes_no_answer_and_leaves_no_hook(
    model: DiekaeModel, store: KnowledgeStore, fitted: ReadingConfidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_it = ask(model, QUESTION, store, max_new_tokens=8)
    assert not any(module._forward_hooks for module in model.decoder.modules())
    monkeypatch.setattr(reading_confidence, "_shipped", dict)
    without = ask(model, QUESTION, store, max_new_tokens=8)
    assert with_it.text == without.text and without.confidence == confidence_of(pick(store, QUESTION))


@pytest.mark.parametrize("setting", ["prefill_chunk_size", "assistant_early_exit"])
def test_settings_that_read_the_question_in_parts_do_not_change_the_confidence(
    model: DiekaeModel, store: KnowledgeStore, fitted: ReadingConfidence, setting: str
) -> None:
    want = ask(model, QUESTION, store, max_new_tokens=2).confidence
    setattr(model.decoder.generation_config, setting, 1)
    assert ask(model, QUESTION, store, max_new_tokens=2).confidence == pytest.approx(want, abs=1e-5)


def test_what_the_gate_of_edits_reads_is_not_what_answers(model: DiekaeModel) -> None:
    edit = Edit(QUESTION, "tall tower", "king")
    edits = edit_model(model, [edit], gate="learned", trained=make_trained_parts(model))
    with question_states(model, LAYER, [2]) as states:
        edits.which(["is the tall tower old"])  # a text that the gate has not read
    assert not states


@pytest.mark.parametrize("layers", [[1, 2], [2], "every:2"])
def test_a_bank_that_reads_in_other_layers_has_the_confidence_of_the_search(
    model: DiekaeModel, fitted: ReadingConfidence, layers: str | list[int]
) -> None:
    fewer = DiekaeModel.exact(model.decoder, model.tokenizer, format=model.config.format, layers=layers)
    assert reading_confidence_for(model) == fitted and fewer.bank.decoder == fitted.decoder
    assert reading_confidence_for(fewer) is None
    early = DiekaeModel.exact(model.decoder, model.tokenizer, format=model.config.format, layers=[0, 1])
    assert reading_confidence_for(early) == fitted, "up to the layer all is as in the prompt"


@pytest.mark.parametrize("encoder", ["reader", "token"])
def test_other_encoders_have_the_confidence_of_the_search(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(encoder)
    fitted = ReadingConfidence(model.bank.decoder, model.config.format, 0, (), (0.0, 0.0, 0.0), 0.5)
    monkeypatch.setattr(reading_confidence, "_shipped", lambda: {(fitted.decoder, fitted.format): fitted})
    assert reading_confidence_for(model) is None


@pytest.mark.parametrize("content", [b"", b"[{", b"\xff", b"[7]", b'[{"layer": 1}]'])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "confidence.json").write_bytes(content)
    with pytest.raises(ValueError, match="confidence.json' is damaged .*install the package again"):
        read_fitted(tmp_path / "confidence.json")


@pytest.mark.parametrize("constant", [-50.0, 50.0])
def test_what_the_decoder_read_decides_whether_an_answer_is_shown(
    model: DiekaeModel,
    store: KnowledgeStore,
    fitted: ReadingConfidence,
    monkeypatch: pytest.MonkeyPatch,
    constant: float,
) -> None:
    sure = fitted._replace(weights=(0.0,) * len(fitted.weights), others=(0.0, 0.0, constant))
    monkeypatch.setattr(reading_confidence, "_shipped", lambda: {(sure.decoder, sure.format): sure})
    pieces: list[str] = []
    answer = ask(model, QUESTION, store, max_new_tokens=6, show=pieces.append)
    assert answer.answered == (constant > 0) and (answer.bare is None) == answer.answered
    assert "".join(pieces) == (answer.text if answer.answered else "")


def test_what_was_fitted_is_written_and_read(tmp_path: Path, fitted: ReadingConfidence) -> None:
    other = fitted._replace(format="plain", threshold=0.25)
    write_fitted(tmp_path / "confidence.json", [fitted, other])
    assert read_fitted(tmp_path / "confidence.json") == [fitted, other]


@pytest.mark.real
def test_smollm2_knows_whether_its_passages_answer(tmp_path: Path) -> None:
    decoder, tokenizer = load_decoder("smollm2")
    model = DiekaeModel.exact(decoder, tokenizer)
    store = KnowledgeStore(tmp_path / "store", model)
    store.add("The Zorblax Tower was designed by Petra Quill. It is 84 metres tall and stands in Ondrel.")
    answers = [
        ask(model, question, store, max_new_tokens=12)
        for question in ("How tall is the Zorblax Tower?", "How many people visit the Zorblax Tower each year?")
    ]
    assert answers[0].answered and answers[0].confidence > answers[1].confidence + 0.1
