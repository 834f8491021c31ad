"""What is in a user's hand says on one line what it is."""

from pathlib import Path

import pytest

from builders import make_model
from diekae import DiekaeModel
from diekae.edit import Edit, edit_model
from diekae.edit.trained import Trained
from diekae_research.editing.weights import WeightEdits


@pytest.mark.parametrize("kept", [True, False])
def test_edits_say_where_they_are_and_how_many_are_in_force(
    kept: bool, model: DiekaeModel, trained: Trained, edits: list[Edit], tmp_path: Path
) -> None:
    made = edit_model(model, edits, gate="learned", trained=trained, folder=tmp_path / "edits" if kept else None)
    made.revert(1)
    place = repr(str(tmp_path / "edits")) if kept else "in memory"
    store = f"EditStore({place}, 2 edits in force of 3)"
    assert repr(made.store) == store and repr(made) == f"Edits({store}, gate 'learned', adapter)"
    assert repr(made.gate) == "LearnedGate(width 32)"
    made.store.close()
    assert "cannot be read: " in repr(made) and "\n" not in repr(made)


def test_a_damaged_store_of_edits_still_says_where_it_is(model: DiekaeModel, tmp_path: Path) -> None:
    made = edit_model(model, [Edit("the red house is", "red house", "blue")], gate="mention", folder=tmp_path)
    made.store._base.execute("DROP TABLE edits")
    assert f"EditStore({str(tmp_path)!r}, cannot be read: no such table" in repr(made)


def test_what_was_trained_says_which_parts_it_has(trained: Trained) -> None:
    assert repr(trained) == "Trained(gate of layers 1, 2, adapter of rank 2)"
    assert repr(Trained()) == "Trained(no gate, no adapter)"
    edits = WeightEdits(make_model(), epochs=4)
    assert repr(edits) == "WeightEdits(0 edits in force of 0, preset 'paper', 4 epochs)"
