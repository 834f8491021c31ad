"""Documents that are prepared apart are read in training as they are when the model serves."""

import dataclasses

import pytest
import torch

from builders import make_decoder, make_model
from diekae import PreparedKnowledge
from diekae.data.prompt import Prompt
from diekae.model import DiekaeModel
from diekae.run.score import lay_out, target_logits
from diekae.training.objectives import DistillObjective, injected_logits

DOCUMENTS = (
    "the castle was built by king four",
    "a river has seven dogs",
    "the silver ship opened in the year nine and ten",
)


def trained(anchor: str = "shared") -> DiekaeModel:
    """A bank whose change of keys and values is not zero."""
    decoder = make_decoder(max_position_embeddings=256)
    model = make_model("attention", decoder=decoder, layers=(1, 2), anchor=anchor)
    with torch.no_grad():
        for name in ("keys", "values"):
            getattr(model.bank.encoder, name).weight.normal_(0, 0.1)
    return model


def apart(model: DiekaeModel, documents: tuple[str, ...]) -> Prompt:
    prompter = model.need_prompter()
    pieces = tuple(map(prompter.knowledge, documents))
    whole = prompter.knowledge("\n".join(documents))
    return Prompt((1,), whole, prompter.input("who built the castle"), (7, 8), pieces if len(pieces) > 1 else ())


@pytest.mark.parametrize("anchor", ["shared", "own"])
def test_documents_apart_are_read_in_training_as_they_serve(anchor: str) -> None:
    model = trained(anchor)
    rows = (DOCUMENTS, DOCUMENTS[:1], DOCUMENTS[1:])
    prompts = [apart(model, row) for row in rows]
    logits, _ = injected_logits(model, lay_out(model, prompts))
    all_prepared = [PreparedKnowledge.join([model.prepare(text) for text in row]) for row in rows]
    served = target_logits(model, prompts, "ours", all_prepared=all_prepared)
    torch.testing.assert_close(logits, served, atol=1e-5, rtol=1e-5)
    together = target_logits(model, [dataclasses.replace(p, apart=()) for p in prompts], "ours")
    assert (together - served).abs().max() > 1e-3, "apart and together must not be the same"


def test_distilling_documents_apart_reaches_every_parameter() -> None:
    model = trained()
    objective = DistillObjective(model)
    objective(**lay_out(model, [apart(model, DOCUMENTS), apart(model, DOCUMENTS[:1])])).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.bank.parameters())
