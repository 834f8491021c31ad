"""Targets of the decoder's own, and documents that are prepared apart in training as they are when they serve."""

import dataclasses
from pathlib import Path

import pytest
import torch

from builders import make_decoder, make_model, make_prompts, make_tokenizer
from diekae import PreparedKnowledge
from diekae.data.prompt import Prompt
from diekae.differences import join_documents
from diekae.knowledge import batch_knowledge
from diekae.model import DiekaeModel
from diekae.run.score import lay_out, target_logits
from diekae.training.answers import answer_some
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


def test_joining_documents_is_joining_memories() -> None:
    model = trained()
    all_prepared = [model.prepare(text) for text in DOCUMENTS]
    joined = join_documents(batch_knowledge(all_prepared), torch.tensor([0, 0, 1]), 1.2)
    want = batch_knowledge([PreparedKnowledge.join(all_prepared[:2]), all_prepared[2]])
    assert torch.equal(joined.mask, want.mask) and torch.equal(joined.position, want.position)
    for name, tensor in want.tensors.items():
        assert torch.equal(joined.tensors[name] * want.mask[None, :, :, None, None], tensor)
    assert torch.equal(joined.places * want.mask, want.places * want.mask)
    assert torch.equal(joined.anchor.tensors["keys"], want.anchor.tensors["keys"])


def test_distilling_documents_apart_reaches_every_parameter() -> None:
    model = trained()
    objective = DistillObjective(model)
    objective(**lay_out(model, [apart(model, DOCUMENTS), apart(model, DOCUMENTS[:1])])).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.bank.parameters())


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_some_targets_become_what_the_decoder_says(share: float, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    model = make_model("attention", decoder=make_decoder(max_position_embeddings=256), tokenizer=tokenizer)
    prompts = [dataclasses.replace(p, target=(1,)) for p in make_prompts(4)]
    found = answer_some(model, prompts, share, tmp_path / "answers.json")
    changed = [a.target != b.target for a, b in zip(found, prompts, strict=True)]
    assert sum(changed) == int(4 * share)
    for prompt, same in zip(found, changed, strict=True):
        if same:
            ids = torch.tensor([[*prompt.anchor, *prompt.knowledge, *prompt.input]])
            said = model.decoder.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=0
            )[0, ids.shape[1] :].tolist()
            assert prompt.target == tuple(said[: len(prompt.target)])
    again = answer_some(model, prompts, share, tmp_path / "answers.json")
    assert [p.target for p in again] == [p.target for p in found]
