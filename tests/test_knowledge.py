"""Prepared knowledge: chunks, batches, several documents, files, and texts that are refused."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import builders
from builders import WINDOW, WORDS, bare_logits, largest_change, logits_of, make_decoder, make_model
from diekae import DiekaeModel, PreparedKnowledge, prepare
from diekae.knowledge.codec import PRECISIONS, decode, quantize, restore

CASTLE = "the castle was built by king four in the north and two towers are red"
RIVER = "a river has seven dogs"
SHIP = "the silver ship opened in the year nine"
QUESTIONS = ["who built the castle", "where are the dogs from", "what opened in the light of day"]

BOTH = pytest.mark.parametrize("encoder", ["reader", "token", "attention"])


@BOTH
def test_prepared_knowledge_gives_the_logits_of_its_text(encoder: str) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS)
    want = logits_of(model, inputs, CASTLE)
    assert largest_change(want, bare_logits(model, inputs)) > 0.1
    prepared = model.prepare(CASTLE)
    assert torch.equal(logits_of(model, inputs, prepared), want)
    assert torch.equal(logits_of(model, inputs, [prepared, CASTLE, [prepared]]), want)
    assert len(prepared) == len(model.prompter.knowledge(CASTLE)) and prepared.nbytes > 0


@BOTH
def test_the_order_of_documents_does_not_matter(encoder: str) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS[0])
    want = logits_of(model, inputs, [[CASTLE, RIVER, SHIP]])
    torch.testing.assert_close(logits_of(model, inputs, [[SHIP, CASTLE, RIVER]]), want, atol=1e-5, rtol=1e-5)
    joined = model.prepare([RIVER, SHIP, CASTLE])
    torch.testing.assert_close(logits_of(model, inputs, joined), want, atol=1e-5, rtol=1e-5)
    for fewer in ([[CASTLE, RIVER]], [[SHIP]]):
        assert largest_change(logits_of(model, inputs, fewer), want) > 1e-3


@pytest.mark.parametrize(("encoder", "kind"), builders.of_encoders("llama", "gpt2", "gpt_neox", "gemma2"))
@pytest.mark.parametrize("chunk_size", [1, 3])
def test_reading_in_chunks_equals_reading_at_once(encoder: str, kind: str, chunk_size: int) -> None:
    model = make_model(encoder, decoder=make_decoder(kind))
    whole, parts = model.prepare(CASTLE), model.prepare(CASTLE, chunk_size=chunk_size)
    assert len(whole) > 2 * chunk_size
    assert parts.token_count == whole.token_count
    for name, tensor in whole.tensors.items():
        assert tensor.abs().max() > 0.1
        torch.testing.assert_close(parts.tensors[name], tensor, atol=2e-5, rtol=1e-4)


def columns_read(model: DiekaeModel) -> list[int]:
    """Return a list that from now on gets the number of columns of each run of the decoder."""
    columns: list[int] = []
    model.decoder.get_input_embeddings().register_forward_pre_hook(lambda _, ids: columns.append(ids[0].shape[1]))
    return columns


@BOTH
def test_a_long_document_is_read_in_chunks(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(encoder)
    whole = model.prepare(CASTLE)
    monkeypatch.setattr(prepare, "CHUNK", 6)
    columns, calls = columns_read(model), list[tuple[str, int, int]]()
    chunked = model.prepare(CASTLE, progress=lambda *call: calls.append(call))
    assert len(columns) >= len(calls) > 2 and max(columns) <= 6 + len(model.anchor)
    assert calls[-1] == ("reading long documents", len(whole), len(whole))
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(chunked.tensors[name], tensor, atol=2e-5, rtol=1e-4)
    calls.clear()
    model.prepare_many(["the sea", "a dog"], progress=lambda *call: calls.append(call))
    assert not calls, "short ones are too fast to show"


@BOTH
def test_knowledge_that_memory_cannot_hold_is_refused_before_it_is_read(
    encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(encoder)
    long = " ".join(WORDS * 20)
    size, tokens = model.prepare(long).nbytes, len(model.prompter.knowledge(long))
    monkeypatch.setattr(prepare, "free_memory", lambda _device: 3 * size)
    columns = columns_read(model)
    refusal = rf"the knowledge has {tokens:,} tokens; .* GB while it is read, but .* GB of memory are free\. Divide it"
    for call in (model.prepare, model.check_memory):
        with pytest.raises(ValueError, match=refusal):
            call(long)
    with pytest.raises(ValueError, match="the knowledge has"):
        model.prepare_many([CASTLE] * 500)
    assert sum(columns) < 10, "it was not read"
    model.prepare(CASTLE)
    monkeypatch.setattr(prepare, "free_memory", lambda _device: 5 * size)
    assert len(model.prepare(long)) == tokens


@pytest.mark.parametrize(("encoder", "kind"), builders.of_encoders("llama", "opt", "gpt_neox", "gemma2"))
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_documents_read_in_a_batch_equal_documents_read_alone(encoder: str, kind: str, chunk_size: int | None) -> None:
    model = make_model(encoder, decoder=make_decoder(kind))
    documents = [SHIP, " ".join((WORDS * 3)[:150]), CASTLE, RIVER, "the sea"]
    together = model.prepare_many(documents, batch_size=3, chunk_size=chunk_size)
    assert len({len(prepared) for prepared in together}) > 3
    for document, prepared in zip(documents, together, strict=True):
        alone = model.prepare(document)
        assert (prepared.token_count, len(prepared), prepared.bank) == (alone.token_count, len(alone), alone.bank)
        if chunk_size and len(alone) > WINDOW - len(model.anchor):
            continue  # its windows are cut elsewhere
        for name, tensor in alone.tensors.items():
            torch.testing.assert_close(prepared.tensors[name], tensor, atol=2e-5, rtol=1e-4)
    assert model.prepare_many([]) == []
    with pytest.raises(ValueError, match="batch_size=0 must be a whole number of at least 1"):
        model.prepare_many(documents, batch_size=0)


@BOTH
@pytest.mark.parametrize("chunk_size", [None, 7])
def test_knowledge_longer_than_the_window_is_read_to_its_end(encoder: str, chunk_size: int | None) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS[0])
    long = " ".join((WORDS * 3)[:200])
    prepared = model.prepare(long, chunk_size=chunk_size)
    assert len(prepared) == len(model.prompter.knowledge(long)) > 3 * WINDOW
    got = logits_of(model, inputs, prepared)
    assert got.isfinite().all()
    other = model.prepare(long.rsplit(" ", 5)[0] + " gold gold gold gold gold", chunk_size=chunk_size)
    assert largest_change(logits_of(model, inputs, other), got) > 1e-3


@BOTH
def test_nothing_is_prepared_of_numbers_that_are_not_finite(encoder: str) -> None:
    for number in (torch.nan, torch.inf):
        model = make_model(encoder)
        with torch.no_grad():
            model.decoder.get_input_embeddings().weight[:, 0] = number
        with pytest.raises(ValueError, match="NaN or infinity, in torch.float32"):
            model.prepare(CASTLE)


def test_slots_are_taken_once_and_only_those_that_there_are() -> None:
    prepared = make_model().prepare(CASTLE)
    assert len(prepared.take([3, 1])) == 2 and len(prepared.take([])) == 0
    for columns in ([-1], [0, 0], [len(prepared)], [1, 10**9]):
        with pytest.raises(ValueError, match=rf"must be different numbers of slots, from 0 to {len(prepared) - 1}"):
            prepared.take(columns)
    with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
        prepared.take([0.5])  # type: ignore[list-item]


@BOTH
def test_saved_knowledge_is_loaded_unchanged(encoder: str, tmp_path: Path) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS[0])
    prepared = model.prepare([CASTLE, RIVER])
    prepared.save(tmp_path / "deep" / "castle.safetensors")
    back = PreparedKnowledge.load(tmp_path / "deep" / "castle.safetensors")
    assert (back.token_count, back.bank, len(back)) == (prepared.token_count, prepared.bank, len(prepared))
    assert torch.equal(logits_of(model, inputs, back), logits_of(model, inputs, prepared))
    assert largest_change(logits_of(model, inputs, back), bare_logits(model, inputs)) > 0.1


def test_a_damaged_file_of_knowledge_is_refused(tmp_path: Path) -> None:

    path = tmp_path / "memory.safetensors"
    make_model().prepare(CASTLE).save(path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:4], b"", b"something else"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not prepared knowledge, or is damaged"):
            PreparedKnowledge.load(path)
    for metadata in (None, {"diekae": "{"}, {"diekae": "{}"}, {"other": "1"}):
        save_file({"keys": torch.zeros(1)}, path, metadata)
        with pytest.raises(ValueError, match="not prepared knowledge, or is damaged"):
            PreparedKnowledge.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        PreparedKnowledge.load(tmp_path / "nowhere")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_flipped_bit_of_prepared_knowledge_is_noticed(
    precision: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    content = make_model("attention").prepare(CASTLE).to_bytes(precision)
    draw, path = random.Random(0), tmp_path / "prepared"
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*range(0, header, 7), *(draw.randrange(header, len(content)) for _ in range(100))]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not prepared knowledge, or is damaged"):
            PreparedKnowledge.load(path)
        with pytest.raises(ValueError, match="no prepared knowledge, or damaged"):
            PreparedKnowledge.from_bytes(bytes(damaged))
    record_property("tries", 2 * len(places))
    path.write_bytes(content)
    assert PreparedKnowledge.load(path).token_count == PreparedKnowledge.from_bytes(content).token_count > 0


def test_a_whole_file_of_other_knowledge_is_refused_by_its_digest(tmp_path: Path) -> None:
    model, path = make_model("attention"), tmp_path / "prepared"
    model.prepare(CASTLE).save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(PreparedKnowledge.load(path, sha256=digest))
    model.prepare(RIVER).save(path)
    assert len(PreparedKnowledge.load(path))
    with pytest.raises(ValueError, match="does not have the digest that was written"):
        PreparedKnowledge.load(path, sha256=digest)


@BOTH
def test_the_repr_is_one_line(encoder: str) -> None:
    prepared = make_model(encoder).prepare([CASTLE, RIVER])
    text = repr(prepared)
    layers = len(next(iter(prepared.tensors.values())))
    assert (
        f"{len(prepared)} slots in {layers} layers, " in text and f"MB, float32 on cpu, bank {prepared.bank})" in text
    )
    assert "\n" not in text and len(text) < 120
    assert repr(PreparedKnowledge({}, 0, "b")) == "PreparedKnowledge(0 slots in 0 layers, 0.00 MB, empty, bank b)"


def test_a_row_of_no_documents_is_refused() -> None:
    model = make_model()
    with pytest.raises(ValueError):
        model(**model.tokenize(QUESTIONS[0]), knowledge=[[]])


def test_prepared_knowledge_is_refused_after_the_bank_is_trained() -> None:
    model = make_model()
    inputs = model.tokenize(QUESTIONS[0])
    prepared = model.prepare(CASTLE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**inputs, knowledge=CASTLE).logits.square().sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match="prepare the knowledge again"):
        model(**inputs, knowledge=prepared)


def test_the_name_of_a_file_is_refused_as_knowledge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("attention")
    inputs = model.tokenize("what is the tower")
    monkeypatch.chdir(tmp_path)
    model(**inputs, knowledge="tower")  # no file has this name yet
    (tmp_path / "tower").write_text("the tower is blue")
    (tmp_path / "docs").mkdir()
    for knowledge in ("tower", [["the sea is red", "tower"]], str(tmp_path / "tower")):
        with pytest.raises(ValueError, match="a file of that name exists; give the file's content: Path"):
            model(**inputs, knowledge=knowledge)
    with pytest.raises(ValueError, match="let a KnowledgeStore read it"):
        model.prepare(["the sea is red", "tower"])
    assert len(model.prepare("tower\n")) == len(model.prepare("old"))
    for text in ("docs", "the tower is blue", "the tower\nis blue", "a" * 5000, "no\x00name"):
        assert len(model.prepare(text)), "all these are texts"


# Files


@torch.no_grad()
@BOTH
def test_precisions_are_small_and_close(encoder: str, tmp_path: Path) -> None:
    model = make_model(encoder)
    prepared, inputs = model.prepare(CASTLE), model.tokenize(QUESTIONS[0])
    want = model(**inputs, knowledge=prepared).logits
    effect = largest_change(want, bare_logits(model, inputs))
    for precision, error in (("exact", 0.0), ("bf16", 0.05), ("int8", 0.05)):
        prepared.save(tmp_path / precision, precision)
        assert (tmp_path / precision).read_bytes() == prepared.to_bytes(precision)
        for back in (
            PreparedKnowledge.load(tmp_path / precision),
            PreparedKnowledge.from_bytes(prepared.to_bytes(precision)),
        ):
            assert (back.bank, back.token_count, len(back)) == (prepared.bank, prepared.token_count, len(prepared))
            assert largest_change(logits_of(model, inputs, back), want) <= error * effect
            if precision != "bf16":
                assert back.tensors["keys"].dtype == prepared.tensors["keys"].dtype
            if precision == "exact":
                assert all(torch.equal(back.tensors[name], tensor) for name, tensor in prepared.tensors.items())
    with pytest.raises(ValueError, match="precision='int4' is not known; choose one of exact, bf16, int8"):
        prepared.to_bytes("int4")


@pytest.mark.parametrize("shape", [(3, 5, 192), (2, 4, 2, 4, 32), (1, 2, 7), (2, 0, 64)])
@pytest.mark.parametrize("gain", [1e-6, 1.0, 1e4])
def test_the_error_of_int8_is_at_most_half_a_scale(shape: tuple[int, ...], gain: float) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * gain
    if tensor.numel():
        tensor[0, 0] = 0.0
        tensor[0, 1, ..., 0] = 100 * gain  # an outlier affects its own group only
    whole, scale = quantize(tensor)
    assert whole.dtype == torch.int8 and whole.shape == tensor.shape
    group = tensor.shape[-1] // scale.shape[-1]
    scales = scale.float().repeat_interleave(group, -1)
    assert bool(((restore(whole, scale) - tensor).abs() <= 0.5001 * scales + 1e-12 * gain).all())
    largest = tensor.unflatten(-1, (-1, group)).abs().amax(-1)
    assert bool((scale.float() <= largest / 126).all()), "no scale is larger than its group needs"


def test_files_of_older_versions_are_loaded(tmp_path: Path) -> None:
    """They had no ``precision``, and the first ones no ``begin``."""
    prepared = make_model("attention").prepare(CASTLE)
    tensors, info = decode(prepared.to_bytes())
    assert set(info) == {"position", "bank", "anchor_ids", "begin", "precision", "sha256"}
    info = {name: info[name] for name in ("position", "bank", "anchor_ids")}
    save_file({name: t.contiguous() for name, t in tensors.items()}, tmp_path / "old", {"diekae": json.dumps(info)})
    back = PreparedKnowledge.load(tmp_path / "old")
    assert back.to_bytes() == prepared.to_bytes()
