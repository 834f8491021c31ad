"""A model with edits: what must hold for every call, every reversion and every store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import hook_count, make_model
from diekae import DiekaeModel
from diekae.data.prompt import Prompter
from diekae.edit import Edit, edit_model, load_edits
from diekae.edit.edits import Edits, input_texts, make_store
from diekae.edit.trained_parts import TrainedParts

Run = Callable[..., torch.Tensor]
IN, OUT = "the red house is", "the ship on the sea is"


@pytest.fixture(params=["mention", "learned"])
def edited(request: pytest.FixtureRequest, model: DiekaeModel, trained: TrainedParts, edits: list[Edit]) -> Edits:
    return edit_model(model, edits, gate=request.param, trained=trained)


def test_an_open_gate_changes_the_logits_and_a_closed_one_leaves_them_bit_identical(
    model: DiekaeModel, edited: Edits, logits: Run
) -> None:
    opened, closed = logits(IN), logits(OUT)
    model.editor = None
    assert not torch.allclose(logits(IN), opened, atol=1e-3)
    assert torch.equal(logits(OUT), closed)
    assert edited.which([IN, OUT]) == [[1], []]
    assert hook_count(model.decoder) == 0


def test_generation_is_edited_and_with_a_closed_gate_bit_identical(model: DiekaeModel, edited: Edits) -> None:
    def generated(text: str) -> torch.Tensor:
        ids: torch.Tensor = model.generate(**model.tokenize(text), max_new_tokens=8, do_sample=False)
        return ids

    opened, closed = generated(IN), generated(OUT)
    (prepared,) = edited.knowledge([IN])
    model.editor = None
    assert torch.equal(generated(OUT), closed) and not torch.equal(generated(IN), opened)
    by_hand = model.generate(**model.tokenize(IN), knowledge=prepared, max_new_tokens=8, do_sample=False)
    assert torch.equal(opened, by_hand), "an edit is the injection of its prepared knowledge"


def test_a_batch_equals_each_row_alone(edited: Edits, logits: Run) -> None:
    texts = (OUT, IN, "by the sea the king of the island is")
    together = logits(*texts)
    for row, text in enumerate(texts):
        alone = logits(text)
        torch.testing.assert_close(together[row, -alone.shape[1] :], alone[0], atol=2e-4, rtol=1e-4)


def test_explicit_knowledge_joins_the_edits(model: DiekaeModel, edited: Edits, logits: Run) -> None:
    both = logits(IN, knowledge="the ship is old")
    (prepared,) = edited.knowledge([IN])
    apart = logits(OUT, knowledge="the ship is old")
    model.editor = None
    assert prepared is not None
    joined = logits(IN, knowledge=[[model.prepare("the ship is old"), prepared]])
    torch.testing.assert_close(both, joined)
    assert torch.equal(apart, logits(OUT, knowledge="the ship is old")), (
        "a closed gate leaves explicit knowledge unchanged"
    )


def test_reverting_restores_bit_for_bit(model: DiekaeModel, edited: Edits, logits: Run) -> None:
    other = logits("the bridge by the lake is")
    record = edited.revert(1)
    assert record is not None and record.state == "reverted" and [r.id for r in edited.list()] == [2, 3]
    after = logits(IN)
    assert torch.equal(logits("the bridge by the lake is"), other), "the other edits stay as they are"
    model.editor = None
    assert torch.equal(logits(IN), after)


def test_reverting_a_superseding_edit_restores_the_first(edited: Edits, logits: Run) -> None:
    first = logits(IN)
    (record,) = edited.add([Edit(IN, "red house", "gold")])
    second = logits(IN)
    assert not torch.equal(first, second)
    assert [r.state for r in edited.list(every=True)] == ["superseded", "live", "live", "live"]
    edited.revert(record.id)
    assert torch.equal(logits(IN), first)


def test_a_cache_keeps_the_decision_for_its_prompt(model: DiekaeModel, edited: Edits) -> None:
    inputs = model.tokenize([IN, OUT])
    more = torch.tensor([[20, 21, 22], [30, 31, 32]])
    with torch.no_grad():
        first = model(**inputs, use_cache=True)
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, 3, dtype=torch.long)], 1)
        steps = model(more, mask, cache=first.cache).logits
        knowledge = edited.knowledge([IN, OUT])
        model.editor = None
        whole = model(torch.cat([inputs["input_ids"], more], 1), mask, knowledge=knowledge).logits[:, -3:]
    torch.testing.assert_close(steps, whole, atol=2e-4, rtol=1e-4)


def test_edits_move_with_the_model(model: DiekaeModel, edited: Edits, logits: Run) -> None:
    expected = logits(IN)
    assert edited._cache
    model.to("cpu")
    assert not edited._cache and torch.equal(logits(IN), expected), "the cache is built again"
    edited.to(torch.device("meta"))
    assert edited.adapter is not None
    parts = [edited.adapter, *([edited.gate.encoder] if edited.gate.width else [])]
    assert all(parameter.is_meta for part in parts for parameter in part.parameters())


def test_edits_add_no_parameters_to_the_model(model: DiekaeModel, edited: Edits) -> None:
    assert set(dict(model.named_parameters())) == {f"bank.{name}" for name, _ in model.bank.named_parameters()}


def test_saved_edits_are_the_same_in_another_process(
    model: DiekaeModel, edited: Edits, trained: TrainedParts, logits: Run, tmp_path: Path
) -> None:
    before = logits(IN)
    edited.revert(3)
    edited.save(tmp_path / "edits")
    other = make_model(model.config.encoder)
    loaded = load_edits(other, tmp_path / "edits", gate=edited.gate.name, trained=trained)
    assert loaded.list(every=True) == edited.list(every=True)
    with torch.no_grad():
        assert torch.equal(other(**other.tokenize(IN)).logits, before)
    with pytest.raises(FileExistsError):
        edited.save(tmp_path / "edits")


def test_an_edit_that_another_process_adds_or_reverts_is_in_force_at_once(
    model: DiekaeModel, trained: TrainedParts, edits: list[Edit], logits: Run, tmp_path: Path
) -> None:
    edit_model(model, edits[:1], folder=tmp_path, trained=trained)
    bare = logits("the bridge by the lake is")
    other = Edits(model, make_store(model, tmp_path), type(model.editor.gate)(*_parts(model)), trained.adapter)  # type: ignore[union-attr]
    (record,) = other.add(edits[2:])
    changed = logits("the bridge by the lake is")
    assert not torch.equal(bare, changed)
    other.revert(record.id)
    assert torch.equal(logits("the bridge by the lake is"), bare)


@pytest.mark.parametrize("step", ["reading prompts", "reading statements"])
def test_a_reversion_by_another_process_while_edits_are_made_is_seen(
    step: str, model: DiekaeModel, trained: TrainedParts, edits: list[Edit], logits: Run, tmp_path: Path
) -> None:
    in_force = edit_model(model, [], folder=tmp_path, gate="learned", trained=trained)
    other = make_store(model, tmp_path)
    bare = logits(IN)

    def revert(what: str, done: int, total: int) -> None:  # noqa: ARG001
        if what == step:
            other.revert(1)

    in_force.add(edits, progress=revert)
    assert in_force.list(every=True)[0].state == "reverted"
    assert in_force.which([IN]) == [[]] and torch.equal(logits(IN), bare)


def test_storing_prepared_knowledge_refreshes_no_gate(
    model: DiekaeModel, trained: TrainedParts, edits: list[Edit], tmp_path: Path
) -> None:
    in_force = edit_model(model, edits, folder=tmp_path, gate="learned", trained=trained)
    in_force.which([IN])
    version = in_force.store.version()
    in_force.store.put_prepared(1, b"x")
    assert in_force.store.version() == version, "prepared knowledge of this process changes no decision"


def _parts(model: DiekaeModel) -> tuple[Any, ...]:
    gate: Any = model.editor.gate  # type: ignore[union-attr]
    return gate.states, gate.encoder, gate.options


def test_errors_leave_the_store_as_it_was(model: DiekaeModel, edited: Edits, tmp_path: Path) -> None:
    before = edited.list(every=True)
    for wrong, message in (
        ([{"prompt": "the sea is", "subject": "", "target": "deep"}], "subject is ''"),
        ([{"prompt": "the sea is", "subject": "lake", "target": "deep"}], "does not contain its subject"),
        ([{"prompt": "the sea is", "subject": "sea", "target": "deep"}] * 2, "edit 2, .* says the same as edit 1"),
        ([Edit("the sea is", "sea", "deep"), Edit(IN, "red house", "blue")], "the same as edit 1, which is in force"),
        ([{"subject": "sea"}], "prompt, target is missing"),
        ([{"prompt": "the sea is", "subject": "sea", "target": "\ud800"}], "not Unicode"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            edited.add(wrong)
    assert edited.list(every=True) == before
    assert edited.add([Edit("the sea is", "sea", "deep")])[0].id == 4
    edited.save(tmp_path)
    with pytest.raises(ValueError, match="made for bank"):
        load_edits(make_model("reader", seed=3), tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no edits"):
        load_edits(model, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="gate='open'"):
        edit_model(model, [], gate="open")


def test_a_learned_gate_needs_to_have_been_trained(model: DiekaeModel) -> None:
    with pytest.raises(ValueError, match="was not trained for this bank"):
        edit_model(model, [], gate="learned")
    assert edit_model(model, []).gate.name == "mention"


def test_prepared_knowledge_that_a_crash_left_out_is_computed_when_it_is_needed(
    model: DiekaeModel, trained: TrainedParts, edits: list[Edit], logits: Run, tmp_path: Path
) -> None:
    whole = edit_model(model, edits, trained=trained)
    expected = logits(IN)
    store = make_store(model, tmp_path)
    store.add(edits[0])  # as if the process had been killed after this line
    assert store.without_prepared() == [1]
    loaded = load_edits(model, tmp_path, trained=trained)
    assert torch.equal(logits(IN), expected) and store.without_prepared() == []
    assert whole.store.prepared(1) == loaded.store.prepared(1)


@pytest.mark.real
def test_the_words_of_a_format_are_removed_from_an_input(smollm2: Any) -> None:
    prompter, text = Prompter(smollm2[1], "{knowledge}"), "What is the house?"
    anchors = [prompter.anchor("plain"), prompter.anchor("chat"), ()]
    inputs = [anchor + prompter.input(text, form) for form in ("plain", "qa", "chat") for anchor in anchors]
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": text}
    inputs += [anchor + rest for anchor, rest in (prompter.chat(turns) for turns in ([user], [system, user]))]
    assert input_texts(prompter, inputs) == [text] * len(inputs)


@pytest.mark.real
def test_the_shipped_gate_and_adapter_edit_smollm2(smollm2: Any) -> None:
    model = DiekaeModel.from_pretrained("smollm2", *smollm2)
    edits = edit_model(model, [Edit("The mother tongue of Danielle Darrieux is", "Danielle Darrieux", "English")])
    assert edits.gate.name == "learned" and edits.adapter is not None

    def answer(text: str) -> str:
        inputs = model.tokenize(text, "plain")
        ids = model.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0)
        return str(smollm2[1].decode(ids[0, inputs["input_ids"].shape[1] :])).strip()

    for text in ("The mother tongue of Danielle Darrieux is", "Danielle Darrieux spoke the language"):
        assert answer(text).startswith("English")
    other = "The capital of France is"
    edited = answer(other)
    edits.revert(1)
    reverted = answer("The mother tongue of Danielle Darrieux is")
    model.editor = None
    assert answer(other) == edited
    assert answer("The mother tongue of Danielle Darrieux is") == reverted and not reverted.startswith("English")
