"""The measurement of editing, whole parts of it, on a tiny model and cases in the original layout."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from builders import make_decoder, make_model
from diekae import DiekaeModel, provenance
from diekae.data.prompt import Prompt
from diekae.edit.trained_parts import TrainedParts
from diekae.progress import silent
from diekae_research.editing import compare
from diekae_research.editing.cases import Case
from diekae_research.editing.evaluate import EditingPlan, Evaluation, evaluate_edits
from diekae_research.editing.measure import EditBench, MeasurementStore
from diekae_research.editing.scores import prompt_of
from diekae_research.methods import Fitted

THINGS = ("house", "tower", "bridge", "castle", "boat", "door", "garden", "wall")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EditingPlan:
    records = [
        {
            "case_id": number,
            "requested_rewrite": {
                "prompt": "the {} is" if number % 2 else "by the sea the {} is",
                "subject": f"{'old ' * (number // 8)}{THINGS[number % 8]}",
                "target_new": {"str": "red"},
                "target_true": {"str": "blue"},
            },
            "paraphrase_prompts": [f"in the snow the {'old ' * (number // 8)}{THINGS[number % 8]} is"],
            "neighborhood_prompts": ["the ship is", "the lake is"],
        }
        for number in range(40)
    ]
    (tmp_path / "counterfact").mkdir()
    (tmp_path / "counterfact" / "counterfact.json").write_text(json.dumps(records))
    unrelated = [Prompt((1,), (), (20, 21, 22), (23, 24))]
    monkeypatch.setattr(Evaluation, "_unrelated", lambda _self: unrelated)
    return EditingPlan(
        tmp_path, tmp_path / "out", cases=2, few=2, sizes=(1, 8, 40), gates=("mention",), methods=("memory",), timed=6
    )


def test_growth_has_a_row_for_each_number_of_edits(plan: EditingPlan) -> None:
    model, reports = make_model("reader"), []
    found = evaluate_edits(
        model, TrainedParts(), plan, ["growth"], lambda what, done, total: reports.append((what, done, total))
    )
    rows = found["growth"]
    assert [(row["edits"], row["kept"], row["n"]) for row in rows] == [(1, 1, 1), (8, 8, 2), (40, 40, 2)]
    assert all(row["ms_an_edit"] > 0 and row["bytes_an_edit"] > 1000 and row["ms_bare"] > 0 for row in rows)
    assert all(row["ns"]["value"] == rows[1]["ns"]["value"] for row in rows[1:]), "no edit opens for the neighbours"
    assert [step for step in reports if step[0] == "growth"] == [("growth", done, 3) for done in (1, 2, 3)]
    again = evaluate_edits(model, TrainedParts(), plan, ["growth"])
    assert again == found, "a part that was measured is read back"


def test_one_at_a_time_and_all_at_once_agree_where_no_subject_is_shared(plan: EditingPlan) -> None:
    found = evaluate_edits(make_model("reader"), TrainedParts(), plan, ["one", "methods"])
    one, many = found["one"]["memory, mention"], found["methods"]["many"]["memory, mention"]
    assert one["n"] == 2 and one["columns"] == many["columns"]
    with pytest.raises(ValueError, match="parts grwth are not known"):
        evaluate_edits(make_model("reader"), TrainedParts(), plan, ["grwth"])


CASES = [
    Case(number, f"the {thing} is", thing, colour, "gold", (), (), "plain")
    for number, (thing, colour) in enumerate(zip(THINGS, ("red", "blue", "green", "silver") * 2, strict=True))
]


def scored_weights(model: DiekaeModel, cases: list[Case], seed: int, out: Path) -> tuple[Fitted, float]:
    """Weight edits of some cases, and a score of theirs, stored in one file."""
    method = compare.fit_to_edits(model, "weights_without_locality", cases, out / "work", silent, seed)
    bare = compare.fit_to_edits(model, "bare", [], out / "work", silent)
    bench = EditBench(model.need_prompter(), bare, MeasurementStore(out / "kept.jsonl"), "tag", "", silent)
    prompt = prompt_of(bench.prompter, CASES[0], CASES[0].prompt, CASES[0].new)
    return method, float(bench.nll(method, [prompt]).total[0])


def test_a_trained_method_is_identified_by_its_training_and_not_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("reader", decoder=make_decoder(num_hidden_layers=10))
    monkeypatch.setattr(compare, "EPOCHS", 2.0)
    few, two = scored_weights(model, CASES[:2], 0, tmp_path)
    many, four = scored_weights(model, CASES[:4], 0, tmp_path)
    changed = [dataclasses.replace(CASES[0], new="blue"), CASES[1]]
    other, retold = scored_weights(model, changed, 0, tmp_path)
    again, seeded = scored_weights(model, CASES[:2], 1, tmp_path)
    assert len({method.fit_digest for method in (few, many, other, again)}) == 4
    assert len({round(value, 5) for value in (two, four, retold, seeded)}) == 4, "each method has its own values"
    assert scored_weights(model, CASES[:2], 0, tmp_path)[1] == two
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 4, "what was measured is read back"
    few.fit_digest = ""
    with pytest.raises(AssertionError, match="has no digest of its training"):
        EditBench(model.need_prompter(), few, MeasurementStore(None), "tag", "", silent).nll(few, [])


def test_a_parts_file_is_named_by_everything_it_depends_on(plan: EditingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(plan: EditingPlan = plan, model: DiekaeModel | None = None) -> str:
        return Evaluation(model or make_model("reader"), TrainedParts(), plan, silent).key("methods")

    first = key()
    assert key() == first
    others = [key(dataclasses.replace(plan, seed=1)), key(dataclasses.replace(plan, methods=("memory", "lora")))]
    half = make_model("reader", decoder=make_decoder().to(torch.bfloat16))
    others += [key(model=half), key(model=make_model("reader", template="about {knowledge}"))]
    path = plan.data / "counterfact" / "counterfact.json"
    records = json.loads(path.read_text())
    records[3]["requested_rewrite"]["target_new"]["str"] = "green"
    kept = path.read_text()
    path.write_text(json.dumps(records))
    others.append(key())
    path.write_text(kept)
    for name, value in (("EPOCHS", 3.0), ("RATES", {"lora": 1.0})):
        with monkeypatch.context() as patch:
            patch.setattr(compare, name, value)
            others.append(key(dataclasses.replace(plan, methods=("memory", "lora"))))
    monkeypatch.setattr(provenance, "code_digest", lambda *_: "another")
    others.append(key())
    assert len({first, *others}) == 1 + len(others)
