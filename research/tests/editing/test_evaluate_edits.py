"""The measurement of editing, whole parts of it, on a tiny model and cases in the original layout."""

import dataclasses
from pathlib import Path

import pytest
import torch
from edit_data import write_facts

from builders import make_decoder, make_model, make_trained_parts
from diekae import DiekaeModel
from diekae.data.prompt import Prompt
from diekae.edit.trained_parts import TrainedParts
from diekae_research.editing import measure
from diekae_research.editing.evaluate import EditingPlan, Evaluation, evaluate_edits, identity
from diekae_research.evaluation.scoring import nll
from diekae_research.provenance import digest


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EditingPlan:
    write_facts(tmp_path)
    unrelated = [Prompt((1,), (), (20, 21, 22), (23, 24))]
    monkeypatch.setattr(Evaluation, "_unrelated", lambda _self: unrelated)
    return EditingPlan(tmp_path, tmp_path / "out", cases=2, few=1)


@pytest.fixture
def gated(model: DiekaeModel) -> TrainedParts:
    """A gate that opens wherever a subject is named."""
    parts = make_trained_parts(model)
    return dataclasses.replace(parts, gate=dataclasses.replace(parts.gate, mentioned=-1.0, nearly=2.0))


def test_methods_and_gates_are_measured_with_all_edits_at_once(
    plan: EditingPlan, model: DiekaeModel, gated: TrainedParts
) -> None:
    found = evaluate_edits(model, gated, plan, ["methods", "gates"])
    few, many = found["methods"]["few"], found["methods"]["many"]
    assert list(few) == ["bare", "prompted", "memory, mention", "memory, learned"]
    assert list(many) == ["bare", "memory, mention", "memory, learned"]
    assert {row["n"] for row in few.values()} == {1} and {row["n"] for row in many.values()} == {2}
    for name in ("memory, mention", "memory, learned"):
        assert many[name]["columns"]["ns"] == many["bare"]["columns"]["ns"], "no edit opens for the neighbours"
        assert many[name]["drift"] == 0 and many[name]["unchanged"]["value"] == 100
    assert found["gates"]["mention"]["prompt"]["opened"] == found["gates"]["learned"]["prompt"]["opened"] == 100
    assert found["gates"]["mention"]["unrelated text"]["opened"] == 0
    assert "shared subject" not in found["gates"]["mention"], "no subject has two facts"
    assert found["plan"] == plan.settings() and "out" not in found["plan"]
    untrained = evaluate_edits(
        model, TrainedParts(), dataclasses.replace(plan, out=plan.out / "untrained"), ["methods", "gates"]
    )
    assert list(untrained["methods"]["many"]) == ["bare", "memory, mention"] and list(untrained["gates"]) == ["mention"]
    with pytest.raises(ValueError, match="part 'grwth' is not known; choose one of methods"):
        evaluate_edits(model, gated, plan, ["grwth"])


@pytest.mark.parametrize("model", ["reader"], indirect=True)
def test_an_interrupted_measurement_goes_on(
    plan: EditingPlan, model: DiekaeModel, gated: TrainedParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = evaluate_edits(model, gated, plan, ["methods"])
    cells = sorted((plan.out / "cells").iterdir())
    assert len(cells) == 7, "four methods on few cases, three on many"
    cells[0].unlink()
    calls: list[int] = []
    monkeypatch.setattr(measure, "nll", lambda m, rows, size: calls.append(len(rows)) or nll(m, rows, size))
    assert evaluate_edits(model, gated, plan, ["methods"]) == found and calls
    calls.clear()
    assert evaluate_edits(model, gated, plan, ["methods"]) == found and not calls, "what was measured is read back"
    evaluate_edits(
        model, dataclasses.replace(gated, gate=dataclasses.replace(gated.gate, mentioned=2.0)), plan, ["methods"]
    )
    assert calls, "other thresholds open other edits"


def test_measurements_are_identified_by_everything_they_depend_on() -> None:
    def tag(model: DiekaeModel | None = None, trained: TrainedParts | None = None) -> str:
        return digest(identity(model or make_model("reader"), trained or TrainedParts()))

    first, model = tag(), make_model("reader")
    assert tag() == first
    others = [tag(make_model("reader", decoder=make_decoder().to(torch.bfloat16)))]
    others += [tag(make_model("reader", template="about {knowledge}")), tag(trained=make_trained_parts(model))]
    changed = make_trained_parts(model)
    next(changed.adapter.parameters()).data += 1  # type: ignore[union-attr]
    others.append(tag(trained=changed))
    assert len({first, *others}) == 1 + len(others)
