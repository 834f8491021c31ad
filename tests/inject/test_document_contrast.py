"""Documents that were prepared apart are read with contrast, against the weights of plain attention."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diekae import DiekaeModel, PreparedKnowledge
from diekae.inject.document_contrast import contrast_bias
from readings import CASTLE, CHANGE, OFF, PLAIN, QUESTIONS, RIVER, SHIP, make_exact, make_variant, off

GAIN = 9.0
"""Factor of the random weights, so that attention prefers some documents to others."""
NAMES = ["llama", "llama, one key head", "qwen3", "phi3", "gpt_neox, half rotary", "mixtral"]
TEXTS = [RIVER, CASTLE, SHIP]


def contrasted(name: str, contrast: float, attention: str = "sdpa") -> DiekaeModel:
    """A model whose keys are not sharpened, with the weights of all others of this name."""
    decoder = make_variant(name, attention, gain=GAIN)
    return make_exact(decoder, encoder_options={**PLAIN, "contrast": contrast})


@torch.no_grad()
def first_layer(model: DiekaeModel, knowledge: Any) -> Tensor:
    """How much each column of x behind its anchor attends to K's slots in the first layer, [H, T, S]."""
    given: dict[int, Tensor] = {}
    inputs = model.tokenize(QUESTIONS[0])
    with model.call_context(knowledge, *inputs.values(), watch=given.__setitem__):
        model.decoder(**inputs)
    return given[0][0, :, len(model.anchor) :]


def logits_of(model: DiekaeModel, knowledge: Any, rows: int = 1, **options: Any) -> Tensor:
    inputs = model.tokenize(QUESTIONS[:rows])
    with torch.no_grad():
        return model(**inputs, knowledge=knowledge, **options).logits


def members_of(all_prepared: list[PreparedKnowledge]) -> Tensor:
    """1 for each slot of a document, [S, D]."""
    return F.one_hot(torch.cat([torch.full((len(p),), n) for n, p in enumerate(all_prepared)])).float()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("contrast", [1.5, 4.0])
def test_a_document_gets_attention_by_the_power_of_what_plain_attention_gives_it(name: str, contrast: float) -> None:
    plain = contrasted(name, 1.0)
    members = members_of([plain.prepare(text) for text in TEXTS])
    weights = first_layer(plain, [TEXTS])
    masses = weights @ members  # in units of the sum over K and x
    shares = masses**contrast / (masses**contrast).sum(-1, keepdim=True) ** (1 - 1 / contrast)
    rest = 1 - masses.sum(-1, keepdim=True)
    want = weights * ((shares / masses) @ members.T) / (rest + shares.sum(-1, keepdim=True))
    assert off(want, weights) > 1e-2
    assert off(first_layer(contrasted(name, contrast), [TEXTS]), want) <= 1e-5


def test_a_large_contrast_reads_one_document_in_each_head() -> None:
    model = contrasted("llama", 500.0)
    members = members_of([model.prepare(text) for text in TEXTS])
    masses = first_layer(model, [TEXTS]) @ members
    best = first_layer(contrasted("llama", 1.0), [TEXTS]) @ members
    assert masses.argmax(-1).equal(best.argmax(-1)) and len(masses.argmax(-1).unique()) > 1
    assert float((masses.sort(-1).values[..., :-1].sum(-1) / masses.sum(-1)).median()) < 1e-6


@pytest.mark.parametrize("name", [*NAMES, "gemma2"])  # what is watched above leaves soft caps out
def test_all_kernels_and_orders_give_the_same(name: str) -> None:
    model = contrasted(name, 4.0)
    want = logits_of(model, [TEXTS])
    assert off(want, logits_of(contrasted(name, 1.0), [TEXTS])) > CHANGE
    assert off(logits_of(contrasted(name, 4.0, "eager"), [TEXTS]), want) <= OFF
    assert off(logits_of(model, [TEXTS[::-1]]), want) <= OFF


def test_one_document_is_read_as_without_contrast() -> None:
    plain, model = contrasted("llama", 1.0), contrasted("llama", 4.0)
    assert logits_of(model, CASTLE).equal(logits_of(plain, CASTLE))
    passage = [model.excerpt(m.prepare(CASTLE), range(4, 9)) for m in (plain, model)]
    assert logits_of(model, passage[1]).equal(logits_of(plain, passage[0]))


def test_rows_of_a_batch_do_not_change_each_other() -> None:
    model = contrasted("llama", 4.0)
    rows = [TEXTS, SHIP, None, [RIVER, SHIP]]
    inputs = model.tokenize([*QUESTIONS, *QUESTIONS][:4])
    with torch.no_grad():
        together = model(**inputs, knowledge=rows).logits
        for number, knowledge in enumerate(rows):
            row = {name: tensor[number : number + 1] for name, tensor in inputs.items()}
            alone = model(**row, knowledge=[knowledge]).logits
            real = row["attention_mask"].bool()
            assert off(together[number : number + 1][real], alone[real]) <= OFF


def test_each_generated_token_is_that_of_one_forward() -> None:
    model = contrasted("llama", 4.0)
    inputs = model.tokenize(QUESTIONS[0])
    answer = model.generate(**inputs, knowledge=[TEXTS], max_new_tokens=6, do_sample=False)
    with torch.no_grad():
        logits = model(answer[:, :-1], knowledge=[TEXTS]).logits
    assert logits[:, -6:].argmax(-1).equal(answer[:, -6:])


def test_the_documents_are_kept_where_knowledge_is_saved_taken_and_joined_again(tmp_path: Path) -> None:
    model = contrasted("llama", 4.0)
    ship, castle, river = (model.prepare(text) for text in (SHIP, CASTLE, RIVER))
    two = PreparedKnowledge.join([ship, castle])
    assert ship.documents is None
    assert two.documents.tolist() == [0] * len(ship) + [1] * len(castle)
    two.save(tmp_path / "two.safetensors")
    back = PreparedKnowledge.load(tmp_path / "two.safetensors")
    assert back.documents.equal(two.documents) and logits_of(model, back).equal(logits_of(model, two))
    assert two.take([0, len(ship) + 1, 1]).documents.tolist() == [0, 1, 0]
    three = PreparedKnowledge.join([river, two])
    assert three.documents.equal(PreparedKnowledge.join([river, ship, castle]).documents)
    # A file of an older version does not say which slots are of which document: it is read as one text.
    old = replace(two, documents=None)
    assert logits_of(model, old).equal(logits_of(contrasted("llama", 1.0), [[SHIP, CASTLE]]))
    assert off(logits_of(model, old), logits_of(model, two)) > CHANGE


def test_no_slots_and_strange_numbers_of_documents_are_read() -> None:
    model = contrasted("llama", 4.0)
    two = model.prepare([SHIP, CASTLE])
    nothing = two.take([])
    assert logits_of(model, nothing).isfinite().all()
    assert PreparedKnowledge.join([nothing, model.prepare(RIVER)]).documents.unique().tolist() == [0]
    strange = replace(two, documents=two.documents * 10**15 - 7)
    assert logits_of(model, strange).equal(logits_of(model, two))


def test_many_queries_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    query, keys = torch.randn(2, 3, 10, 8), torch.randn(2, 3, 7, 8)
    members = F.one_hot(torch.tensor([[0, 0, 1, 1, 1, 2, 2], [0, 1, 1, 1, 1, 1, 1]]), 3).float()
    mask = torch.zeros(2, 1, 10, 7)
    mask[1, :, :, 6] = torch.finfo(torch.float32).min
    members[1, 6] = 0
    want = contrast_bias(query, keys, mask, members, 3.0, 0.35, 2.0)
    monkeypatch.setattr("diekae.inject.document_contrast._SCORES", 2 * 3 * 7 * 4)
    assert off(contrast_bias(query, keys, mask, members, 3.0, 0.35, 2.0), want) <= 1e-6
    # By hand, for one query.
    scores = 2 * torch.tanh(query[0, 1, 4] @ keys[0, 1].T * 0.35 / 2)
    masses = torch.stack([scores[:2].exp().sum(), scores[2:5].exp().sum(), scores[5:].exp().sum()])
    new = masses**3 / (masses**3).sum() ** (2 / 3)
    assert off(want[0, 1, 4], (new / masses).log()[[0, 0, 1, 1, 1, 2, 2]]) <= 1e-5


def test_gradients_reach_the_slots_through_the_contrast() -> None:
    query, keys = torch.randn(1, 1, 4, 8), torch.randn(1, 1, 6, 8, requires_grad=True)
    members = F.one_hot(torch.tensor([[0, 0, 0, 1, 1, 1]])).float()
    contrast_bias(query, keys, torch.zeros(1, 1, 4, 6), members, 4.0, 0.3).square().sum().backward()
    assert keys.grad is not None and bool(keys.grad.isfinite().all()) and float(keys.grad.abs().max()) > 0


@pytest.mark.parametrize("contrast", [0.5, 0.0, -1.0, float("inf"), float("nan")])
def test_a_contrast_below_one_or_without_an_end_is_refused(contrast: float) -> None:
    with pytest.raises(ValueError, match="contrast"):
        make_exact(encoder_options={"contrast": contrast})
