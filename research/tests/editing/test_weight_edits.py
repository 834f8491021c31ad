"""Edits that are trained into encoders."""

from builders import make_model
from diekae_research.editing.weights import WeightEdits


def test_the_repr_of_weight_edits_names_their_options() -> None:
    edits = WeightEdits(make_model(), epochs=4)
    assert repr(edits) == "WeightEdits(0 edits in force of 0, preset 'paper', 4 epochs)"
