"""The measurement of editing, whole parts of it, on a tiny model and cases in the original layout."""

import json
from pathlib import Path

import pytest
from builders import make_model

from diekae.data.prompt import Prompt
from diekae.editing.evaluate import Evaluation, Plan, evaluate_edits
from diekae.editing.trained import Trained

THINGS = ("house", "tower", "bridge", "castle", "boat", "door", "garden", "wall")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
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
    return Plan(
        tmp_path, tmp_path / "out", cases=2, few=2, sizes=(1, 8, 40), gates=("mention",), methods=("memory",), timed=6
    )


def test_growth_has_a_row_for_each_number_of_edits(plan: Plan) -> None:
    model, told = make_model("reader"), []
    found = evaluate_edits(
        model, Trained(), plan, ["growth"], lambda what, done, total: told.append((what, done, total))
    )
    rows = found["growth"]
    assert [(row["edits"], row["kept"], row["n"]) for row in rows] == [(1, 1, 1), (8, 8, 2), (40, 40, 2)]
    assert all(row["ms_an_edit"] > 0 and row["bytes_an_edit"] > 1000 and row["ms_bare"] > 0 for row in rows)
    assert all(row["ns"]["value"] == rows[1]["ns"]["value"] for row in rows[1:]), "nobody speaks to the neighbours"
    assert [step for step in told if step[0] == "growth"] == [("growth", done, 3) for done in (1, 2, 3)]
    again = evaluate_edits(model, Trained(), plan, ["growth"])
    assert again == found, "a part that was measured is read back"


def test_one_at_a_time_and_all_at_once_agree_where_no_subject_is_shared(plan: Plan) -> None:
    found = evaluate_edits(make_model("reader"), Trained(), plan, ["one", "methods"])
    one, many = found["one"]["memory, mention"], found["methods"]["many"]["memory, mention"]
    assert one["n"] == 2 and one["columns"] == many["columns"]
    with pytest.raises(ValueError, match="parts grwth are not known"):
        evaluate_edits(make_model("reader"), Trained(), plan, ["grwth"])
