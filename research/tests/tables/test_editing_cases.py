"""CounterFact as edits, from both of its layouts."""

from pathlib import Path

import pytest
from small import THINGS, write_counterfact

from diekae.data.example import DataError
from diekae_research.editing.cases import load_cases
from layouts import FULL_DATA, needs_full_data, write_json

RECORD = {
    "case_id": 4,
    "requested_rewrite": {
        "prompt": "{}, who has a citizenship from",
        "target_new": {"str": "Singapore"},
        "target_true": {"str": "Switzerland"},
        "subject": "Luigi Snozzi",
    },
    "paraphrase_prompts": ["Luigi Snozzi holds a citizenship from", "X. Luigi Snozzi is a citizen of"],
    "neighborhood_prompts": [f"Person {n} is a citizen of" for n in range(12)],
}


def test_the_original_layout(tmp_path: Path) -> None:
    write_json(tmp_path / "counterfact.json", [RECORD])
    (edit,) = load_cases(tmp_path, 5, 0)
    assert edit.prompt == "Luigi Snozzi, who has a citizenship from"
    assert (edit.new, edit.true) == ("Singapore", "Switzerland")
    assert edit.fact == "Luigi Snozzi, who has a citizenship from Singapore."
    assert len(edit.paraphrases) == 2 and len(edit.neighbours) == 10


def test_generation_prompts_are_not_paraphrases(tmp_path: Path) -> None:
    write_counterfact(tmp_path)
    edits = load_cases(tmp_path, 100, 0)
    assert len(edits) == 16, "a third of 24 cases has no paraphrase"
    assert all(edit.case % 3 and edit.paraphrases == (f"a {edit.subject} has on it",) for edit in edits)
    (tmp_path / "generation_prompts.txt").unlink()
    edits = load_cases(tmp_path, 100, 0)
    assert len(edits) == 24 and not any(edit.paraphrases for edit in edits), "without the list all are left out"


def test_neighbours_are_pooled_and_never_about_the_subject(tmp_path: Path) -> None:
    write_counterfact(tmp_path)
    for edit in load_cases(tmp_path, 100, 0):
        assert len(edit.neighbours) == len(THINGS) - 1
        assert not any(edit.subject in text for text in edit.neighbours)
        neighbour = THINGS[(THINGS.index(edit.subject) + 1) % len(THINGS)]
        assert edit.neighbours[0] == f"the {neighbour} is painted", "the case's own neighbour comes first"


def test_the_seed_decides_the_choice(tmp_path: Path) -> None:
    write_counterfact(tmp_path)
    assert load_cases(tmp_path, 5, 0) == load_cases(tmp_path, 5, 0) != load_cases(tmp_path, 5, 1)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="counterfact-train.json is missing"):
        load_cases(tmp_path, 5, 0)


@needs_full_data
def test_paraphrases_of_the_full_set() -> None:
    assert FULL_DATA is not None
    edits = load_cases(FULL_DATA / "counterfact", 10**6, 0)
    assert 3000 < len(edits) <= 3739
    assert all(edit.paraphrases and edit.neighbours for edit in edits)
