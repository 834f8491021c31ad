"""Prepared knowledge in a file: exact, in bf16, in int8."""

from pathlib import Path

import pytest
import torch

from builders import make_model
from diekae import PreparedKnowledge
from diekae.knowledge.codec import quantize, restore
from diekae.store import KnowledgeStore

CASTLE = "the castle was built by king four in the north and two towers are red"


@pytest.mark.parametrize("shape", [(3, 5, 192), (2, 4, 2, 4, 32), (1, 2, 7), (2, 0, 64)])
@pytest.mark.parametrize("gain", [1e-6, 1.0, 1e4])
def test_int8_is_within_half_a_step_of_its_group(shape: tuple[int, ...], gain: float) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * gain
    if tensor.numel():
        tensor[0, 0] = 0.0
        tensor[0, 1, ..., 0] = 100 * gain  # an outlier affects only its own group
    integers, scale = quantize(tensor)
    assert integers.dtype == torch.int8 and integers.shape == tensor.shape
    group = tensor.shape[-1] // scale.shape[-1]
    steps = scale.float().repeat_interleave(group, -1)
    assert bool(((restore(integers, scale) - tensor).abs() <= 0.5001 * steps + 1e-12 * gain).all())
    largest = tensor.unflatten(-1, (-1, group)).abs().amax(-1)
    assert bool((scale.float() <= largest / 126).all()), "a step is no larger than the group's largest element needs"


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["token", "reader", "attention"])
def test_each_precision_restores_nearly_the_same(encoder: str, tmp_path: Path) -> None:
    model = make_model(encoder)
    prepared, inputs = model.prepare(CASTLE), model.tokenize("who built the castle")
    expected = model(**inputs, knowledge=prepared).logits
    effect = float((expected - model(**inputs).logits).abs().max())
    for precision, error in (("exact", 0.0), ("bf16", 0.05), ("int8", 0.05)):
        path = tmp_path / precision
        path.write_bytes(prepared.to_bytes(precision))
        restored = PreparedKnowledge.load(path)
        assert (restored.bank, restored.position, len(restored)) == (prepared.bank, prepared.position, len(prepared))
        logits = model(**inputs, knowledge=restored).logits
        assert float((logits - expected).abs().max()) <= error * effect
        if precision == "exact":
            assert all(torch.equal(restored.tensors[name], tensor) for name, tensor in prepared.tensors.items())
            assert PreparedKnowledge.load(path).bank == prepared.bank, (
                "an exact file can be loaded by PreparedKnowledge.load"
            )
    assert restored.tensors["keys"].dtype == prepared.tensors["keys"].dtype


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
