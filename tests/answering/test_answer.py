"""Answers from documents: search, reading, confidence and sources, on tiny models."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from builders import make_decoder, make_tokenizer
from diekae import DiekaeModel, KnowledgeStore
from diekae.answering import ask, confidence_of, pick, reply
from diekae.answering.answer import AnswerStreamer
from diekae.answering.sources import attention_to_slots
from diekae.store import FoundPassage

TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
TOWER = "# The tower\n\n" + "the castle is on the river and the tower is old. " * 6
TOWER += "\n\n## Its builder\n\n" + "the tall tower is made of stone by the king. " * 6
SHIP = "# The ship\n\nthe ship is blue and the sea is deep. the ship sails in the winter."


@pytest.fixture
def model() -> DiekaeModel:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return DiekaeModel.exact(make_decoder("llama"), tokenizer)


@pytest.fixture
def store(model: DiekaeModel, tmp_path: Path) -> KnowledgeStore:
    store = KnowledgeStore(tmp_path / "store", model)
    store.add([TOWER, SHIP])
    return store


def test_an_answer_is_the_decoders_reply_with_the_passages(model: DiekaeModel, store: KnowledgeStore) -> None:
    question = "who made the tall tower"
    answer = ask(model, question, store, max_new_tokens=6)
    passages = pick(store, question)
    assert answer.text == reply(model, question, store.read(passages), max_new_tokens=6)
    assert [source.text for source in answer.sources] == [passage.text for passage in passages]
    assert {source.title for source in answer.sources} == {"The tower"}
    assert sum(source.share for source in answer.sources) == pytest.approx(1)
    assert all(source.share > 0 for source in answer.sources)
    assert answer.confidence == confidence_of(passages) and answer.seconds > 0


def test_sources_are_in_document_order_and_at_most_as_many_as_asked_for(
    model: DiekaeModel, store: KnowledgeStore
) -> None:
    for count in (1, 2, 3):
        sources = ask(model, "the tower of stone", store, passages=count, max_new_tokens=2).sources
        starts = [TOWER.index(source.text) for source in sources]
        assert starts == sorted(starts) and 1 <= len(sources) <= count


def test_every_slot_receives_attention(model: DiekaeModel, store: KnowledgeStore) -> None:
    prepared = store.read(pick(store, "the ship"))
    ids = model.tokenize("where is the ship")["input_ids"]
    answer_ids = torch.cat([ids, ids[:, -3:]], dim=1)
    attention = attention_to_slots(model, answer_ids, ids.shape[1], prepared)
    assert attention.shape == (len(prepared),) and bool((attention > 0).all()) and float(attention.sum()) < 3


def test_the_threshold_decides_whether_the_documents_answer(model: DiekaeModel, store: KnowledgeStore) -> None:
    sure = ask(model, "the ship is blue", store, threshold=0.0, max_new_tokens=4)
    assert sure.answered and sure.bare is None and str(sure) == sure.text
    unsure = ask(model, "the ship is blue", store, threshold=1.0, max_new_tokens=4)
    assert not unsure.answered and unsure.bare == reply(model, "the ship is blue", max_new_tokens=4)
    assert str(unsure) == f"Not in your documents. Without them: {unsure.bare}" or not unsure.bare
    assert unsure.text == sure.text, "the answer from the documents is still in the result"


def test_an_empty_store_answers_nothing(model: DiekaeModel, tmp_path: Path) -> None:
    answer = ask(model, "where is the ship", KnowledgeStore(tmp_path / "empty", model), max_new_tokens=4)
    assert not answer.answered and answer.confidence == 0 and answer.sources == () and answer.text == ""
    assert answer.bare == reply(model, "where is the ship", max_new_tokens=4)


def test_a_follow_up_question_is_searched_with_the_question_before_it(
    model: DiekaeModel, store: KnowledgeStore
) -> None:
    history = [{"role": "user", "content": "is the ship blue"}, {"role": "assistant", "content": "the ship is blue."}]
    alone = ask(model, "is it old", store, max_new_tokens=3)
    following = ask(model, "is it old", store, history=history, max_new_tokens=3)
    assert alone.sources[0].title == "The tower", "only that document contains the word"
    assert following.sources[0].title == "The ship"
    anchor, rest = model.need_prompter().chat([*history, {"role": "user", "content": "is it old"}])
    ids = torch.tensor([anchor + rest])
    prepared = store.read(pick(store, "is the ship blue is it old is it old"))
    answer_ids = model.generate(
        ids, knowledge=prepared, max_new_tokens=3, min_new_tokens=1, do_sample=False, pad_token_id=0
    )
    text = model.need_prompter().tokenizer.decode(answer_ids[0, ids.shape[1] :], skip_special_tokens=True)
    assert following.text == text.strip()


def test_only_the_named_documents_are_searched(model: DiekaeModel, store: KnowledgeStore) -> None:
    answer = ask(model, "the tall tower", store, documents=["The ship"], max_new_tokens=2)
    assert {source.title for source in answer.sources} == {"The ship"}
    with pytest.raises(ValueError, match="no document 'The boat'"):
        ask(model, "the tall tower", store, documents=["The boat"])


def test_an_answer_is_greedy_whatever_the_decoders_generation_settings(model: DiekaeModel) -> None:
    plain = reply(model, "where is the ship", SHIP, max_new_tokens=8)
    turns = model.chat("where is the ship", knowledge=SHIP, max_new_tokens=8)
    model.decoder.generation_config.update(num_beams=3, length_penalty=-9.0, temperature=9.0, top_k=3)
    assert reply(model, "where is the ship", SHIP, max_new_tokens=8) == plain
    assert model.chat("where is the ship", knowledge=SHIP, max_new_tokens=8) == turns


def test_a_blank_question_is_refused(model: DiekaeModel, store: KnowledgeStore) -> None:
    with pytest.raises(ValueError, match="input is empty"):
        ask(model, "  ", store)


def test_confidence_grows_with_coverage_and_likeness_and_falls_with_the_size_of_the_store() -> None:
    passage = FoundPassage("id", "title", "", "text", 0, 4, 1.0, 0.2, 0.3, 20, "static")
    assert confidence_of([]) == 0
    low = confidence_of([passage])
    assert 0 < low < confidence_of([replace(passage, coverage=0.4)]) < 1
    assert low < confidence_of([replace(passage, likeness=0.6)]) < 1
    assert 0 < confidence_of([replace(passage, searched=5000)]) < low
    assert confidence_of([passage, replace(passage, coverage=0.4)]) == confidence_of([replace(passage, coverage=0.4)])


@pytest.mark.parametrize("format", ["chat", "qa"])
def test_an_answer_is_shown_as_it_comes_only_if_the_documents_answer(tmp_path: Path, format: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    model = DiekaeModel.exact(make_decoder("llama"), tokenizer, format=format)
    store = KnowledgeStore(tmp_path / "store", model)
    store.add([TOWER, SHIP])
    pieces: list[str] = []
    answer = ask(model, "the ship is blue", store, threshold=0.0, max_new_tokens=12, show=pieces.append)
    assert "".join(pieces) == answer.text and len(pieces) > 2 and all(pieces)
    shown: list[str] = []
    ask(model, "the ship is blue", store, threshold=1.0, max_new_tokens=4, show=shown.append)
    assert not shown


def test_a_shown_answer_has_no_blanks_around_it_and_may_be_one_line() -> None:
    for one_line, expected in ((False, "one two \n\nthree"), (True, "one two")):
        pieces: list[str] = []
        streamer = AnswerStreamer(make_tokenizer(), pieces.append, one_line)
        for text in ("\n ", "one ", "two ", "\n\n", "three", "", " \n"):
            streamer.on_finalized_text(text)
        assert "".join(pieces) == expected and all(pieces)
