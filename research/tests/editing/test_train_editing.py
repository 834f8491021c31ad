"""`diekae-research edit train` on a tiny model and tiny data: both parts, and a run that trains one part anew."""

import json
from pathlib import Path

import pytest
from edit_data import SUBJECTS, write_facts

from builders import make_model
from diekae.edit.prompt_encoder import GateOptions
from diekae.edit.trained_parts import load_trained
from diekae_research.editing import training
from diekae_research.editing.training import TrainingSizes, train_editing

SIZES = TrainingSizes(gate_facts=20, gate_steps=3, adapter_facts=6, adapter_steps=2)


def write_data(folder: Path) -> Path:
    questions = [
        {
            "src": f"what is the {subject}",
            "subject": subject,
            "rephrase": f"who has the {subject}",
            "alt": "red",
            "answers": ["blue"],
            "loc": "nq question: where is the king",
            "loc_ans": "gold",
        }
        for subject in SUBJECTS
    ]
    write_facts(folder)
    (folder / "zsre").mkdir()
    (folder / "zsre" / "zsre_mend_tiny.json").write_text(json.dumps(questions))
    return folder


def test_both_parts_are_trained_into_one_file_and_kept_by_later_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "GateOptions", lambda: GateOptions(layers=(1, 2), heads=2, head_width=8))
    model, data, out = make_model("attention"), write_data(tmp_path), tmp_path / "out"
    path, log = train_editing(model, data, out, SIZES)
    trained = load_trained(path, model)
    assert trained.encoder is not None and trained.adapter is not None and trained.gate.layers == (1, 2)
    assert len(log["gate"]["losses"]) == 3 and set(log["gate"]["likeness"]) == {"reworded", "other", "wrong"}
    assert log["sizes"]["gate_steps"] == 3 and log["adapter"]
    again, _ = train_editing(model, data, out, SIZES, seed=1)
    assert again == path and len(list(out.glob("states-*.safetensors"))) == 1, "the decoder's states are stored once"
