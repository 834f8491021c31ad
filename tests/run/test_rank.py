"""How much likelier each of several documents makes a question, against runs with the document in the prompt."""

import pytest
import torch

import diekae
from readings import CASTLE, QUESTIONS, RIVER, SHIP, exact_model, in_prompt, make_exact

TEXTS = [SHIP, CASTLE, RIVER]


@torch.no_grad()
def in_the_prompt(model: diekae.DiekaeModel, question: str, text: str) -> float:
    """Log likelihood of the question's tokens, without the first: with the document in the prompt, less without it."""
    ids, known = in_prompt(model, question, text)
    bare = model.tokenize(question)["input_ids"]
    return likelihood(model, ids, known) - likelihood(model, bare, 0)


def likelihood(model: diekae.DiekaeModel, ids: torch.Tensor, known: int) -> float:
    start = len(model.anchor) + known + 1
    logits = model.decoder(input_ids=ids).logits.log_softmax(-1)[0, start - 1 : -1]
    return float(logits.gather(-1, ids[0, start:, None]).sum())


@pytest.mark.parametrize("name", ["llama", "gemma3, alternating", "gpt_neox, half rotary"])
def test_documents_are_ranked_by_what_they_add_to_the_likelihood_in_a_prompt(name: str) -> None:
    model = exact_model(name)
    want = [in_the_prompt(model, QUESTIONS[0], text) for text in TEXTS]
    got = diekae.rank(model, QUESTIONS[0], TEXTS)
    assert [number for number, _ in got] == sorted(range(3), key=lambda number: -want[number])
    for number, gain in got:
        assert gain == pytest.approx(want[number], abs=1e-3)


def test_prepared_documents_batches_and_repetitions_change_nothing() -> None:
    model = exact_model("llama")
    want = diekae.rank(model, QUESTIONS[1], TEXTS)
    prepared = [model.prepare(text) for text in TEXTS]
    for documents, size in ((prepared, 8), ([SHIP, prepared[1], RIVER], 1), (TEXTS, 2)):
        got = diekae.rank(model, QUESTIONS[1], documents, batch_size=size)
        assert [number for number, _ in got] == [number for number, _ in want]
        assert [value for _, value in got] == pytest.approx([value for _, value in want], abs=1e-4)


@pytest.mark.parametrize(
    ("question", "documents", "error", "message"),
    [
        (QUESTIONS[0], [], ValueError, "at least one"),
        (QUESTIONS[0], CASTLE, ValueError, "must be a list"),
        (QUESTIONS[0], exact_model("llama").prepare(CASTLE), ValueError, "must be a list"),
        (" ", TEXTS, ValueError, "empty"),
        (QUESTIONS[0], [CASTLE, " "], ValueError, "empty"),
        (QUESTIONS[0], [CASTLE, 3], TypeError, "expected a text"),
        (QUESTIONS[0], [CASTLE, None], ValueError, "holds None"),
    ],
)
def test_bad_arguments_are_named(question: str, documents: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        diekae.rank(exact_model("llama"), question, documents)  # type: ignore[arg-type]


def test_a_batch_holds_at_least_one_document() -> None:
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        diekae.rank(exact_model("llama"), QUESTIONS[0], TEXTS, batch_size=0)


def test_documents_of_another_bank_are_refused() -> None:
    other = make_exact(layers=[0, 1])
    with pytest.raises(ValueError, match="prepared by bank"):
        diekae.rank(exact_model("llama"), QUESTIONS[0], [other.prepare(CASTLE)])
