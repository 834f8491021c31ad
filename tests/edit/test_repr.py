"""Objects of the public interface have a repr of one line."""

from pathlib import Path

import pytest

from diekae import DiekaeModel
from diekae.edit import Edit, edit_model
from diekae.edit.trained_parts import TrainedParts


@pytest.mark.parametrize("on_disk", [True, False])
def test_the_repr_of_edits_names_their_folder_and_number(
    on_disk: bool, model: DiekaeModel, trained: TrainedParts, edits: list[Edit], tmp_path: Path
) -> None:
    loaded = edit_model(model, edits, gate="learned", trained=trained, folder=tmp_path / "edits" if on_disk else None)
    loaded.revert(1)
    where = repr(str(tmp_path / "edits")) if on_disk else "in memory"
    store = f"EditStore({where}, 2 edits in force of 3)"
    assert repr(loaded.store) == store and repr(loaded) == f"Edits({store}, gate 'learned', adapter)"
    assert repr(loaded.gate) == "LearnedGate(width 32)"
    loaded.store.close()
    assert "cannot be read: " in repr(loaded) and "\n" not in repr(loaded)


def test_the_repr_of_a_damaged_store_names_its_folder(model: DiekaeModel, tmp_path: Path) -> None:
    loaded = edit_model(model, [Edit("the red house is", "red house", "blue")], gate="mention", folder=tmp_path)
    loaded.store._connection.execute("DROP TABLE edits")
    assert f"EditStore({str(tmp_path)!r}, cannot be read: no such table" in repr(loaded)


def test_the_repr_of_trained_parts_names_the_parts(trained: TrainedParts) -> None:
    assert repr(trained) == "TrainedParts(gate of layers 1, 2, adapter of rank 2)"
    assert repr(TrainedParts()) == "TrainedParts(no gate, no adapter)"
