"""Training for edits: the objective and the adapter."""

import dataclasses
from pathlib import Path

import torch

from builders import make_model
from diekae import DiekaeModel
from diekae.data.batch import IGNORED
from diekae.data.example import Example
from diekae.data.prompt import Prompt
from diekae.edit.adapter import AdapterOptions, EditAdapter
from diekae_research.editing.adapter_training import SETTINGS, train_adapter
from diekae_research.editing.objective import EditObjective, EditRow, EditRows, learned_row, locality_row

THINGS = ("house", "bridge", "tower", "castle", "boat", "door")


def edit_rows(model: DiekaeModel) -> list[list[EditRow]]:
    prompter = model.need_prompter()
    items = []
    for n, thing in enumerate(THINGS):
        colour = ("red", "blue", "green")[n % 3]
        prompt = prompter.prompt(Example((f"the {thing} is {colour}",), f"the {thing} is", colour))
        still = Prompt(model.anchor, prompt.knowledge, prompter.input(f"the {thing} was by the sea"), ())
        items.append([learned_row(prompt, prompter.input("in the snow")), locality_row(still)])
    return items


def test_labels_are_learned_up_to_the_targets_end_and_stay_behind_it() -> None:
    model = make_model("reader")
    first, second = edit_rows(model)[0]
    batch = EditRows([]).collate([[first, second]])
    there = batch["labels"] != IGNORED
    assert batch["learned"].sum(1).tolist() == [1, 0]
    assert there.sum(1).tolist() == [1 + 3, 6], (
        "labels behind the target; all behind the first token, and one behind the last"
    )
    assert bool((batch["labels"][batch["learned"]] == first.prompt.target[0]).all())
    assert not bool((batch["learned"] & ~there).any())


def test_the_loss_is_cross_entropy_and_kl_by_hand(model: DiekaeModel) -> None:
    items = edit_rows(model)[:2]
    batch = EditRows(items).collate(items)
    adapter = EditAdapter.for_model(model)
    plain, both = (EditObjective(model, adapter, weight)(**dict(batch)) for weight in (0.0, 0.7))
    total = divergence = torch.zeros(())
    count = 0
    for row in (row for item in items for row in item):
        prompt = row.prompt
        ids = torch.tensor([prompt.anchor + prompt.input + prompt.target])
        edited = _edited_logits(model, adapter, prompt, ids)
        bare = model.decoder(ids).logits[0]
        for n, token in enumerate(prompt.target):
            place = len(prompt.anchor) + len(prompt.input) + n - 1
            if n < row.learned:
                total = total - edited[place].log_softmax(-1)[token]
            else:
                base = bare[place].log_softmax(-1)
                divergence = divergence + (base.exp() * (base - edited[place].log_softmax(-1))).sum()
                count += 1
    torch.testing.assert_close(plain.loss, total, rtol=1e-4, atol=1e-4)
    expected = total + 0.7 * divergence / count * plain.positions
    torch.testing.assert_close(both.loss, expected, rtol=1e-4, atol=1e-4)


def _edited_logits(model: DiekaeModel, adapter: EditAdapter, prompt: Prompt, ids: torch.Tensor) -> torch.Tensor:
    """Run one row alone, with its knowledge prepared, adapted and injected."""
    from diekae.prepare import read_documents

    (prepared,) = read_documents(model.attached, model.anchor, [prompt.knowledge])
    logits: torch.Tensor = model(ids, knowledge=adapter.adapt(prepared)).logits[0]
    return logits


def test_an_untrained_adapter_adds_its_slots_and_copies_alone(model: DiekaeModel) -> None:
    prepared = model.prepare("the house is red")
    adapter = EditAdapter.for_model(model, AdapterOptions(rank=2, slots=3, copies=2))
    found = adapter.adapt(prepared)
    assert len(found) == 2 * len(prepared) + 3 and (found.token_count, found.bank) == (
        prepared.token_count,
        prepared.bank,
    )
    for name, tensor in prepared.tensors.items():
        torch.testing.assert_close(found.tensors[name][:, : 2 * len(prepared)], torch.cat([tensor, tensor], 1))


def everything(model: DiekaeModel) -> dict[str, torch.Tensor]:
    return {**model.bank.state_dict(), **model.decoder.state_dict()}


def test_training_an_adapter_lowers_its_loss_and_touches_nothing_else(model: DiekaeModel, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in everything(model).items()}
    items = edit_rows(model)
    settings = dataclasses.replace(SETTINGS, max_steps=30, batch_size=6, evaluations=2, learning_rate=2e-2)
    adapter, log = train_adapter(model, items, items, tmp_path, settings=settings, locality=0.1)
    losses = [row["eval_loss"] for row in log if "eval_loss" in row]
    batch = EditRows(items).collate(items)
    untrained = EditAdapter.for_model(model)
    start = EditObjective(model, untrained, 0.1)(**dict(batch))
    assert losses[-1] < 0.8 * float((start.loss / start.positions).detach())
    after = everything(model)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in model.bank.parameters())
    again, _ = train_adapter(model, items, items, tmp_path, settings=settings, locality=0.1)  # found finished
    for one, other in zip(adapter.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
