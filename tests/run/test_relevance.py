"""Of several documents, generation reads those that the prompt is about, and scoring reads all."""

from typing import Any

import pytest
import torch

from builders import make_decoder, make_model, make_tokenizer
from diekae import DiekaeConfig, DiekaeModel, PreparedKnowledge
from diekae.data.formats import last_questions
from diekae.model import relevance
from readings import CASTLE, QUESTIONS, RIVER, SHIP, exact_model, make_variant

TEXTS = [SHIP, CASTLE, RIVER]


@pytest.fixture
def valued(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was tried, and the gains to give, one a document."""
    tried: dict[str, Any] = {"gains": [0.0] * 3, "prompts": []}

    def gains(_model: DiekaeModel, tokens: Any, documents: Any) -> list[float]:
        tried["prompts"].append(tuple(tokens))
        return tried["gains"][: len(documents)]

    monkeypatch.setattr(relevance, "gains", gains)
    return tried


def texts(model: DiekaeModel, questions: list[str], knowledge: Any, **options: Any) -> list[list[int]]:
    output = model.generate(
        **model.tokenize(questions), knowledge=knowledge, max_new_tokens=6, do_sample=False, **options
    )
    return output.tolist()


@pytest.mark.parametrize(
    ("gains", "read"),
    [
        ([10.0, 5.9, 6.0], [0, 2]),
        ([1.0, 30.0, 2.0], [1]),
        ([0.0, 0.0, 0.0], [0, 1, 2]),
        ([0.0, -1.0, 0.5], [2]),
    ],
)
def test_documents_with_a_good_share_of_the_best_gain_are_read_as_if_they_alone_were_given(
    valued: dict[str, Any], gains: list[float], read: list[int]
) -> None:
    model = exact_model("llama")
    prepared = [model.prepare(text) for text in TEXTS]
    valued["gains"] = gains
    got = texts(model, QUESTIONS[:1], [TEXTS])
    assert got == texts(model, QUESTIONS[:1], PreparedKnowledge.join([prepared[number] for number in read]))
    assert got == texts(model, QUESTIONS[:1], [prepared]), "texts, or what was prepared of them"


def test_if_every_document_lowers_the_likelihood_none_is_read(valued: dict[str, Any]) -> None:
    model = exact_model("llama")
    valued["gains"] = [-3.0, -0.1, -2.0]
    assert texts(model, QUESTIONS[:1], [TEXTS]) == texts(model, QUESTIONS[:1], None)
    rows = texts(model, QUESTIONS[:2], [TEXTS, CASTLE])
    assert rows == texts(model, QUESTIONS[:2], [None, CASTLE])
    inputs = model.tokenize(QUESTIONS[0])
    with torch.no_grad(), model.injected([TEXTS], inputs["input_ids"]):
        got = model.decoder(**inputs).logits
    with torch.no_grad():
        assert torch.equal(got, model(**inputs).logits)


def test_each_row_chooses_by_its_own_prompt_without_padding() -> None:
    model = exact_model("llama")
    questions = [QUESTIONS[0], f"{QUESTIONS[1]} {QUESTIONS[2]}"]
    known = [[CASTLE, RIVER, SHIP], [SHIP, RIVER]]
    together = texts(model, questions, known)
    for row, (question, documents) in enumerate(zip(questions, known, strict=True)):
        (alone,) = texts(model, [question], [documents])
        assert together[row][-len(alone) :] == alone


def test_one_document_costs_no_run(valued: dict[str, Any]) -> None:
    model = exact_model("llama")
    for knowledge in (
        CASTLE,
        [CASTLE],
        [[CASTLE]],
        model.prepare(CASTLE),
        None,
        PreparedKnowledge.join([model.prepare(t) for t in TEXTS]),
    ):
        texts(model, QUESTIONS[:1], knowledge)
    assert not valued["prompts"]


def test_scoring_reads_all_documents_whatever_x_is() -> None:
    model = exact_model("llama")
    joined = PreparedKnowledge.join([model.prepare(text) for text in TEXTS])
    inputs = model.tokenize(QUESTIONS[:1])
    with torch.no_grad():
        assert torch.equal(model(**inputs, knowledge=[TEXTS]).logits, model(**inputs, knowledge=joined).logits)


def test_a_block_that_injects_chooses_by_its_prompt(valued: dict[str, Any]) -> None:
    model = exact_model("llama")
    valued["gains"] = [1.0, 9.0, 1.0]
    inputs = model.tokenize(QUESTIONS[0])
    with torch.no_grad(), model.injected([TEXTS], inputs["input_ids"]):
        got = model.decoder(**inputs).logits
    with torch.no_grad():
        assert torch.equal(got, model(**inputs, knowledge=CASTLE).logits)
    assert valued["prompts"] == [tuple(inputs["input_ids"][0].tolist())]


def test_a_chat_chooses_by_the_last_two_questions(valued: dict[str, Any]) -> None:
    model = DiekaeModel(make_variant("llama"), DiekaeConfig.preset("exact", format="chat"), make_tokenizer(chat=True))
    prompter = model.need_prompter()
    turns = [
        {"role": "system", "content": "the old town"},
        {"role": "user", "content": "what opened last night"},
        {"role": "assistant", "content": "the castle"},
        {"role": "user", "content": "where are the dogs from"},
        {"role": "assistant", "content": "the river"},
        {"role": "user", "content": "who built it"},
    ]
    valued["gains"] = [1.0, 9.0, 1.0]
    got = model.chat(turns, knowledge=TEXTS, max_new_tokens=6)
    assert got == model.chat(turns, knowledge=CASTLE, max_new_tokens=6)
    asked = [turns[0], {"role": "user", "content": "where are the dogs from who built it"}]
    assert last_questions(turns) == asked
    assert valued["prompts"] == [sum(prompter.chat(asked), ())]


def test_only_the_end_of_a_long_prompt_counts_and_it_is_read_behind_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = exact_model("llama")
    tokens = model.tokenize(f"{RIVER} {QUESTIONS[0]}")["input_ids"][0].tolist()
    prepared = [model.prepare(CASTLE)]
    (whole,) = relevance.gains(model, tokens, prepared)
    monkeypatch.setattr(relevance, "LAST", 4)
    (end,) = relevance.gains(model, tokens, prepared)
    ids = torch.tensor([tokens])
    with torch.no_grad():
        runs = [model(ids, knowledge=known).logits[0, -5:-1].log_softmax(-1) for known in (CASTLE, None)]
    known, bare = (float(run.gather(-1, ids[0, -4:, None]).sum()) for run in runs)
    assert end == pytest.approx(known - bare, abs=1e-4)
    assert abs(whole - end) > 1e-3


def test_gains_that_are_no_numbers_count_as_the_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    model = exact_model("llama")
    prepared = [model.prepare(text) for text in TEXTS]
    tokens = model.tokenize(QUESTIONS[0])["input_ids"][0].tolist()
    likelihoods = {len(prepared[0]): float("nan"), len(prepared[1]): -3.0, len(prepared[2]): -2.0}
    monkeypatch.setattr(
        relevance,
        "_log_likelihoods",
        lambda _model, _ids, known, _predicted: [-9.0 if one is None else likelihoods[len(one)] for one in known],
    )
    assert relevance.gains(model, tokens, prepared) == [-float("inf"), 6.0, 7.0]
    assert relevance.relevant(model, tokens, prepared) == [1, 2]
    likelihoods = dict.fromkeys(likelihoods, float("nan"))
    assert relevance.relevant(model, tokens, prepared) == []


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_documents_are_tried_together_if_they_are_short(rows: int) -> None:
    lengths = [9000, 30, 4000, 2000, 31, 4100, 2500, 5, 8]
    batches = list(relevance._batches(lengths, rows))
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[number] for number in batch)
        assert len(batch) <= rows and (len(batch) == 1 or len(batch) * longest <= relevance._COLUMNS)


def test_a_model_without_a_tokenizer_chooses_too() -> None:
    model = exact_model("llama")
    prepared = [model.prepare(text) for text in TEXTS]
    inputs = model.tokenize(QUESTIONS[:1])
    untold = DiekaeModel(model.decoder, model.config, None).eval()
    want = model.generate(**inputs, knowledge=[prepared], max_new_tokens=3, do_sample=False)
    assert torch.equal(untold.generate(**inputs, knowledge=[prepared], max_new_tokens=3, do_sample=False), want)


@pytest.mark.parametrize("encoder", ["attention", "reader"])
def test_bad_input_is_named_before_the_decoder_runs(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = make_decoder("llama" if encoder == "attention" else "gpt2", max_position_embeddings=64)
    model = make_model(encoder, decoder=decoder, tokenizer=make_tokenizer(chat=True), format="chat")
    monkeypatch.setattr(relevance, "_log_likelihoods", lambda *_: pytest.fail("the decoder has run"))
    with pytest.raises(ValueError, match="the decoder's window is 64"):
        model.chat("castle " * 80, knowledge=TEXTS)
    inputs = model.tokenize(QUESTIONS[0])
    with pytest.raises(ValueError, match="token_healing"):
        model.generate(**inputs, knowledge=[TEXTS], token_healing=True)
    with pytest.raises(ValueError, match="attention_mask has shape"):
        model.injected([TEXTS], inputs["input_ids"], torch.ones(1, 2))


def test_documents_of_another_anchor_are_named() -> None:
    model = exact_model("llama")
    prepared = [model.prepare_behind((9, 9), text) for text in TEXTS]
    with pytest.raises(ValueError, match="input 0 begins with tokens"):
        texts(model, QUESTIONS[:1], [prepared])


def test_a_prompt_of_the_anchor_alone_prefers_no_document() -> None:
    model = exact_model("llama")
    prepared = [model.prepare(text) for text in TEXTS]
    assert relevance.gains(model, [*model.anchor, 7], prepared) == [0.0] * 3
