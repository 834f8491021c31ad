"""Training for edits: the objective, the adapter, and encoders E(_, x)."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from builders import make_decoder, make_model
from diekae import DiekaeConfig, DiekaeModel
from diekae.data.batch import IGNORED
from diekae.data.example import Example
from diekae.data.prompt import Prompt
from diekae.edit import Edit
from diekae.edit.adapter import AdapterOptions, EditAdapter
from diekae.edit.trained_parts import TrainedParts, find_trained, load_trained
from diekae.knowledge import batch_knowledge
from diekae_research.editing.adapter_training import SETTINGS, train_adapter
from diekae_research.editing.objective import EditObjective, EditRow, EditRows, learned_row, locality_row
from diekae_research.editing.weight_training import WeightOptions
from diekae_research.editing.weights import WeightEdits, load_weight_edits, no_knowledge

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
    plain, both = (EditObjective(model, model.bank, weight)(**dict(batch)) for weight in (0.0, 0.7))
    total = divergence = torch.zeros(())
    count = 0
    for row in (row for item in items for row in item):
        prompt = row.prompt
        ids = torch.tensor([prompt.anchor + prompt.input + prompt.target])
        edited = _edited_logits(model, prompt, ids)
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


def _edited_logits(model: DiekaeModel, prompt: Prompt, ids: torch.Tensor) -> torch.Tensor:
    """Run one row alone, with its knowledge prepared and injected."""
    from diekae.prepare import read_documents

    (prepared,) = read_documents(model.attached, model.anchor, [prompt.knowledge])
    logits: torch.Tensor = model(ids, knowledge=prepared).logits[0]
    return logits


def test_an_untrained_adapter_adds_its_slots_and_copies_alone(model: DiekaeModel) -> None:
    prepared = model.prepare("the house is red")
    adapter = EditAdapter.for_model(model, AdapterOptions(rank=2, slots=3, copies=2))
    found = adapter.adapt(prepared)
    assert len(found) == 2 * len(prepared) + 3 and (found.position, found.bank) == (prepared.position, prepared.bank)
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
    start = EditObjective(model, untrained, 0.1, untrained)(**dict(batch))
    assert losses[-1] < 0.8 * float((start.loss / start.positions).detach())
    after = everything(model)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in model.bank.parameters())
    again, _ = train_adapter(model, items, items, tmp_path, settings=settings, locality=0.1)  # found finished
    for one, other in zip(adapter.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_trained_parts_are_saved_and_loaded(tmp_path: Path, model: DiekaeModel, trained: TrainedParts) -> None:
    path = tmp_path / "editing.safetensors"
    trained.save(path, model)
    found = load_trained(path, model)
    assert found.gate == trained.gate and found.adapter is not None and found.encoder is not None
    assert found.adapter.options == trained.adapter.options  # type: ignore[union-attr]
    other = make_model(model.config.encoder, seed=1)
    with pytest.raises(ValueError, match="trained for bank"):
        load_trained(path, other)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="damaged"):
        load_trained(path, model)
    with pytest.raises(FileNotFoundError, match="edit train"):
        load_trained(tmp_path / "none", model)
    assert find_trained(model) == TrainedParts(), "nothing comes with the package for a random bank"


def test_another_bank_gets_the_shipped_gate_and_a_warning_about_the_adapter(
    tmp_path: Path,
    model: DiekaeModel,
    trained: TrainedParts,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    trained.save(tmp_path / "editing.safetensors", model)
    monkeypatch.setattr("diekae.edit.trained_parts.shipped_banks", lambda: {"tiny": tmp_path})
    own = find_trained(model)
    assert own.encoder is not None and own.adapter is not None and not recwarn
    with pytest.warns(UserWarning, match="adapter that came with the package is for another bank"):
        other = find_trained(make_model(model.config.encoder, seed=1))
    assert other.encoder is not None and other.gate == trained.gate and other.adapter is None


FACTS = [Edit("the house is", "house", "red"), Edit("the tower is", "tower", "blue")]
BARELY: dict[str, Any] = {"sentences": 0, "locality": 0.0, "batch_size": 2}


def deep_model(encoder: str) -> DiekaeModel:
    """A model whose decoder has the paper's layers 3 to 8."""
    return make_model(encoder, decoder=make_decoder(num_hidden_layers=10))


@pytest.fixture(params=["default", "paper"])
def weights(request: pytest.FixtureRequest) -> WeightEdits:
    model = deep_model("reader")
    edits = WeightEdits(model, preset=request.param, epochs=30, learning_rate=1e-2, **BARELY)
    edits.add(FACTS)
    model.editor = edits
    return edits


def edited_by_weights(model: DiekaeModel, **options: Any) -> WeightEdits:
    edits = WeightEdits(model, **{**BARELY, **options})
    edits.add(FACTS)
    model.editor = edits
    return edits


def test_weight_edits_are_the_papers_encoders_from_an_identity_start() -> None:
    config, paper = WeightOptions().configuration(), DiekaeConfig.preset("paper")
    assert (config.encoder, config.layers, config.site) == ("token", "memit", "block")
    assert config.encoder_options == {**paper.encoder_options, "identity_start": True}
    assert config.encoder_options["width"] == 128 and config.encoder_options["heads"] == 32
    assert config.scope == "all", "what is generated is edited too"
    assert WeightOptions(layers="memit:scaled").configuration().layers == "memit:scaled"
    with pytest.raises(ValueError, match="preset='exact' has nothing that could learn"):
        WeightOptions(preset="exact").configuration()
    with pytest.raises(ValueError, match="names layer 8, but the decoder has layers 0 to 3"):
        WeightEdits(make_model("reader"), **BARELY).add(FACTS)


def test_weight_edits_depend_on_the_tokens_before() -> None:
    """The difference at a token depends on the tokens before it, as in the paper; an MLP's would not."""
    model = deep_model("reader")
    edits = edited_by_weights(model, epochs=4)
    bank, embed = edits.encoders.bank, model.decoder.get_input_embeddings()
    prepared = batch_knowledge([no_knowledge(edits.encoders)])
    mask = torch.ones(1, 3, dtype=torch.bool)
    with torch.no_grad():
        one, other = (bank(prepared, embed(torch.tensor([[a, 21, 22]]))[None], mask).difference for a in (20, 30))
    assert bank.layers == (3, 4, 5, 6, 7, 8)
    assert float((one - other)[:, :, 2].abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("bank", "preset"), [("reader", "paper"), ("attention", "paper"), ("token", "default"), ("attention", "default")]
)
def test_weight_edits_and_given_knowledge_add_up(bank: str, preset: str) -> None:
    model = deep_model(bank)
    edits = edited_by_weights(model, preset=preset, epochs=4)
    inputs = model.tokenize("the house is")
    with torch.no_grad():
        known = model(**inputs, knowledge="the sea is old").logits
        alone = model(**inputs).logits
        model.editor = None
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        with edits.encoders.behind(no_knowledge(edits.encoders), ids, mask):
            by_hand = model(**inputs, knowledge="the sea is old").logits
    assert torch.equal(known, by_hand) and not torch.allclose(known, alone, atol=1e-3)
    model.editor = edits
    made = model.generate(**inputs, knowledge="the sea is old", max_new_tokens=3, do_sample=False)
    with torch.no_grad():
        last = model(made[:, :-1], knowledge="the sea is old").logits[0, -1]
    assert int(last.argmax()) == int(made[0, -1]), "generation behind a cache equals a whole run"


@pytest.mark.parametrize(("bank", "preset"), [("token", "paper"), ("attention", "attention")])
def test_weight_edits_refuse_knowledge_of_a_bank_that_reads_x_as_they_do(bank: str, preset: str) -> None:
    model = deep_model(bank)
    edited_by_weights(model, preset=preset, epochs=1)
    inputs = model.tokenize("the house is")
    for knowledge in ("the sea is old", [model.prepare("the sea is old")]):
        with pytest.raises(ValueError, match=f"weight edits of encoder='{bank}' cannot be in force while knowledge"):
            model.generate(**inputs, knowledge=knowledge, max_new_tokens=2)
    assert model.generate(**inputs, knowledge=[None], max_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2


def ask(model: DiekaeModel, text: str) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**model.tokenize(text)).logits[0, -1]
    return found


def test_weight_edits_answer_the_targets_and_revert_to_the_bare_decoder(weights: WeightEdits) -> None:
    model, prompter = weights.model, weights.model.need_prompter()
    for text, target in (("the house is", "red"), ("the tower is", "blue")):
        assert int(ask(model, text).argmax()) == prompter.input(target)[0]
        made = model.generate(**model.tokenize(text), max_new_tokens=1, do_sample=False)
        assert int(made[0, -1]) == prompter.input(target)[0]
    kept = ask(model, "the house is")
    weights.revert(2)
    assert [record.edit.target for record in weights.list()] == ["red"]
    assert not torch.equal(ask(model, "the house is"), kept), "the others are trained anew"
    weights.revert(1)
    edited = ask(model, "the house is")
    model.editor = None
    assert torch.equal(edited, ask(model, "the house is"))
    with pytest.raises(ValueError, match="no edit 1 is in force"):
        weights.revert(1)


def test_weights_are_saved_and_loaded(weights: WeightEdits, tmp_path: Path) -> None:
    kept = ask(weights.model, "the tower is")
    weights.save(tmp_path)
    found = load_weight_edits(weights.model, tmp_path)
    weights.model.editor = found
    assert torch.equal(ask(weights.model, "the tower is"), kept) and found.list() == weights.list()


def test_weight_edits_refuse_existing_edits_and_unknown_options(weights: WeightEdits) -> None:
    with pytest.raises(ValueError, match="edited already"):
        weights.add([Edit("the house is", "house", "red")])
    with pytest.raises(ValueError, match="localty"):
        WeightEdits(weights.model, localty=1.0)


def test_locality_keeps_other_texts_nearer_to_the_bare_decoder() -> None:
    model = make_model("reader")
    edits = [Edit("the house is", "house", "red"), Edit("the tower is", "tower", "blue")]
    bare = ask(model, "the boat is").log_softmax(-1)
    apart = {}
    for locality in (0.0, 10.0):
        made = WeightEdits(
            model, preset="default", epochs=30, batch_size=2, sentences=8, locality=locality, learning_rate=1e-2
        )
        made.add(edits)
        model.editor = made
        moved = ask(model, "the boat is").log_softmax(-1)
        apart[locality] = float(F.kl_div(moved, bare, log_target=True, reduction="sum"))
        model.editor = None
    assert apart[10.0] < 0.5 * apart[0.0]
