"""Documents that are prepared apart are read in training as they are when the model serves."""

import dataclasses

import torch

from builders import make_decoder, make_model
from diekae import PreparedKnowledge
from diekae.data.prompt import Prompt
from diekae.inject.batch_slots import join_documents
from diekae.knowledge import batch_knowledge
from diekae.model import DiekaeModel
from diekae.run.score import lay_out, target_logits
from diekae.training.objectives import DistillObjective, injected_logits

DOCUMENTS = (
    "the castle was built by king four",
    "a river has seven dogs",
    "the silver ship opened in the year nine and ten",
)


def trained() -> DiekaeModel:
    """A bank whose change of keys and values is not zero."""
    model = make_model("attention", decoder=make_decoder(max_position_embeddings=256), layers=(1, 2))
    with torch.no_grad():
        for name in ("keys", "values"):
            getattr(model.bank.encoder, name).weight.normal_(0, 0.1)
    return model


def apart(model: DiekaeModel, documents: tuple[str, ...]) -> Prompt:
    prompter = model.need_prompter()
    pieces = tuple(map(prompter.knowledge, documents))
    whole = prompter.knowledge("\n".join(documents))
    return Prompt((1,), whole, prompter.input("who built the castle"), (7, 8), pieces if len(pieces) > 1 else ())


def test_documents_apart_are_read_in_training_as_they_serve() -> None:
    model = trained()
    rows = (DOCUMENTS, DOCUMENTS[:1], DOCUMENTS[1:])
    prompts = [apart(model, row) for row in rows]
    logits, _ = injected_logits(model, lay_out(model, prompts))
    all_prepared = [PreparedKnowledge.join([model.prepare(text) for text in row]) for row in rows]
    served = target_logits(model, prompts, "ours", all_prepared=all_prepared)
    torch.testing.assert_close(logits, served, atol=1e-5, rtol=1e-5)
    together = target_logits(model, [dataclasses.replace(p, apart=()) for p in prompts], "ours")
    assert (together - served).abs().max() > 1e-3, "apart and together must not be the same"


def test_joining_documents_is_joining_what_was_prepared() -> None:
    model = trained()
    all_prepared = [model.prepare(text) for text in DOCUMENTS]
    joined = join_documents(batch_knowledge(all_prepared), torch.tensor([0, 0, 1]), 1.2)
    expected = batch_knowledge([PreparedKnowledge.join(all_prepared[:2]), all_prepared[2]])
    assert torch.equal(joined.mask, expected.mask) and torch.equal(joined.position, expected.position)
    for name, tensor in expected.tensors.items():
        assert torch.equal(joined.tensors[name] * expected.mask[None, :, :, None, None], tensor)
    assert torch.equal(joined.places * expected.mask, expected.places * expected.mask)
    assert torch.equal(joined.anchor.tensors["keys"], expected.anchor.tensors["keys"])


def test_distilling_documents_apart_reaches_every_parameter() -> None:
    model = trained()
    objective = DistillObjective(model)
    objective(**lay_out(model, [apart(model, DOCUMENTS), apart(model, DOCUMENTS[:1])])).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.bank.parameters())
