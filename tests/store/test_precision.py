"""A store keeps prepared knowledge in the precision that it was opened with."""

from pathlib import Path

import pytest
import torch

from builders import make_model
from diekae import PreparedKnowledge
from diekae.store import KnowledgeStore

CASTLE = "the castle was built by king four in the north and two towers are red"


def test_a_store_can_keep_int8(tmp_path: Path) -> None:
    model = make_model("token", encoder_options={"width": 128, "heads": 4, "blocks": 4, "mlp_width": 24})
    exact, small = KnowledgeStore(tmp_path / "a", model), KnowledgeStore(tmp_path / "b", model, precision="int8")
    sizes = []
    for store in (exact, small):
        (document,) = store.add(" ".join([CASTLE] * 12)).ids
        (entry,) = store.documents()
        sizes.append(entry.bytes or 0)
        prepared = store.prepared(document)
    assert entry.precision == "int8" and prepared.tensors["keys"].dtype == torch.float32
    assert sizes[1] < 0.28 * sizes[0]


def test_other_files_and_precisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision='int4'"):
        PreparedKnowledge({}, 0, "").to_bytes("int4")
    with pytest.raises(FileNotFoundError):
        PreparedKnowledge.load(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not prepared knowledge"):
        PreparedKnowledge.load(tmp_path / "bad")
