"""The model over one forward: who receives, who does not, and what goes to disk and comes back."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import builders
from builders import SMALL, WINDOW, WORDS, hook_count, make_decoder, make_model
from diekae import DiekaeConfig, DiekaeModel, PreparedKnowledge
from diekae.checkpoint import CONFIG_NAME
from diekae.encoders import encoder_class

CASTLE = "the castle was built by king four in the north and two towers are red"
RIVER = "a river has seven dogs"
SHIP = "the silver ship opened in the year nine"
QUESTIONS = ["who built the castle", "where are the dogs from", "what opened in the light of day"]

BOTH = pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
SITES = pytest.mark.parametrize(("encoder", "site"), builders.SITES)
SCOPES = pytest.mark.parametrize("scope", ["all", "prompt"])


def weights_of(folder: Path) -> Path:
    """The one weights file of a bank."""
    (path,) = folder.glob("bank-*.safetensors")
    return path


@torch.no_grad()
def logits_of(model: DiekaeModel, inputs: dict[str, Tensor], knowledge=None, **kwargs) -> Tensor:
    return model(**inputs, knowledge=knowledge, **kwargs).logits


@torch.no_grad()
def bare(model: DiekaeModel, inputs: dict[str, Tensor], **kwargs) -> Tensor:
    return model.decoder(**inputs, **kwargs).logits


def positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


def moved(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


# Who receives


@BOTH
@SCOPES
def test_without_knowledge_the_decoder_is_untouched(encoder: str, scope: str) -> None:
    model = make_model(encoder, scope=scope)
    inputs = model.tokenize(QUESTIONS)
    want = bare(model, inputs)
    assert torch.equal(logits_of(model, inputs), want)
    assert torch.equal(logits_of(model, inputs, [None] * 3), want)
    assert moved(logits_of(model, inputs, CASTLE), want) > 0.1


@pytest.mark.parametrize("encoder", ["reader", "token"])
def test_an_untrained_bank_changes_nothing(encoder: str) -> None:
    model = make_model(encoder, effect=0.0)
    inputs = model.tokenize(QUESTIONS)
    torch.testing.assert_close(logits_of(model, inputs, CASTLE), bare(model, inputs), atol=0, rtol=0)


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_untrained_bank_of_the_decoders_own_attention_is_k_in_the_prompt(question: str) -> None:
    """In all layers; in some of them it is part of it, and nothing only where it is in none."""
    model, half = (make_model("attention", effect=0.0, layers=layers) for layers in ("all", (1, 3)))
    ids, a = model.tokenize(question)["input_ids"], len(model.anchor)
    known = torch.tensor([model.need_prompter().knowledge(CASTLE)])
    want = bare(model, {"input_ids": torch.cat([ids[:, :a], known, ids[:, a:]], dim=1)})[:, a + known.shape[1] :]
    nothing = bare(model, {"input_ids": ids})[:, a:]
    assert moved(want, nothing) > 0.1
    assert moved(logits_of(model, {"input_ids": ids}, CASTLE)[:, a:], want) <= 1e-5
    part = logits_of(half, {"input_ids": ids}, CASTLE)[:, a:]
    assert moved(part, want) > 0.1 and moved(part, nothing) > 0.1


@SITES
def test_rows_without_knowledge_stay_bit_for_bit_in_a_mixed_batch(encoder: str, site: str) -> None:
    model = make_model(encoder, site=site)
    inputs = model.tokenize(QUESTIONS)
    want = bare(model, inputs)
    got = logits_of(model, inputs, [CASTLE, None, [SHIP, RIVER]])
    assert torch.equal(got[1], want[1])
    assert moved(got[0], want[0]) > 0.1
    assert moved(got[2], want[2]) > 0.1


@BOTH
def test_the_anchor_receives_nothing_and_an_own_anchor_does(encoder: str) -> None:
    inputs = make_model(encoder).tokenize(QUESTIONS[0])
    for anchor, touched in (("shared", False), ("own", True)):
        model = make_model(encoder, anchor=anchor)
        got, want = logits_of(model, inputs, CASTLE), bare(model, inputs)
        assert torch.equal(got[:, 0], want[:, 0]) is not touched
        assert moved(got[:, 1:], want[:, 1:]) > 0.1


@BOTH
def test_a_batch_is_its_rows_alone(encoder: str) -> None:
    model = make_model(encoder)
    knowledge = [CASTLE, [RIVER, SHIP], RIVER]
    inputs = model.tokenize(QUESTIONS)
    together = logits_of(model, inputs, knowledge, position_ids=positions(inputs["attention_mask"]))
    for row, question in enumerate(QUESTIONS):
        alone = model.tokenize(question)
        length = alone["input_ids"].shape[1]
        want = logits_of(model, alone, [knowledge[row]])[0]
        assert moved(want, bare(model, alone)[0]) > 0.1
        torch.testing.assert_close(together[row, -length:], want, atol=1e-5, rtol=1e-5)


@BOTH
def test_left_padding_is_right_padding(encoder: str) -> None:
    model = make_model(encoder)
    left = model.tokenize(QUESTIONS)
    lengths = left["attention_mask"].sum(1)
    assert len(set(lengths.tolist())) > 1
    right = {name: torch.zeros_like(tensor) for name, tensor in left.items()}
    for row, length in enumerate(lengths.tolist()):
        for name in left:
            right[name][row, :length] = left[name][row, -length:]
    knowledge = [CASTLE, RIVER, None]
    a = logits_of(model, left, knowledge, position_ids=positions(left["attention_mask"]))
    b = logits_of(model, right, knowledge, position_ids=positions(right["attention_mask"]))
    assert moved(b[0], bare(model, right)[0]) > 0.1
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(a[row, -length:], b[row, :length], atol=1e-5, rtol=1e-5)


@BOTH
def test_the_injection_mask_names_the_columns(encoder: str) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS[0])
    mask = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    mask[:, 3:] = True
    got, want = logits_of(model, inputs, CASTLE, injection_mask=mask), bare(model, inputs)
    assert torch.equal(got[:, :3], want[:, :3])
    assert moved(got[:, 3:], want[:, 3:]) > 0.1
    assert torch.equal(logits_of(model, inputs, CASTLE, injection_mask=torch.zeros_like(mask)), want)


@BOTH
def test_forward_over_a_cache_is_forward_over_all(encoder: str) -> None:
    model = make_model(encoder)
    ids = model.tokenize(QUESTIONS[2])["input_ids"]
    with torch.no_grad():
        want = model(ids, knowledge=CASTLE).logits
        first = model(ids[:, :4], knowledge=CASTLE, use_cache=True)
        rest = [first.logits]
        for column in range(4, ids.shape[1]):
            step = ids[:, column : column + 1]
            rest.append(model(step, knowledge=CASTLE, past_key_values=first.past_key_values, use_cache=True).logits)
    assert moved(want, bare(model, {"input_ids": ids})) > 0.1
    torch.testing.assert_close(torch.cat(rest, 1), want, atol=1e-5, rtol=1e-5)


@BOTH
def test_nothing_is_left_on_the_decoder(encoder: str) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS)
    state = {name: tensor.clone() for name, tensor in model.decoder.state_dict().items()}
    before = bare(model, inputs)
    logits_of(model, inputs, CASTLE)
    with pytest.raises(RuntimeError, match="inside"), model.injected(CASTLE, inputs["input_ids"]):
        assert hook_count(model.decoder) > 0
        raise RuntimeError("inside")
    assert hook_count(model.decoder) == 0
    assert torch.equal(bare(model, inputs), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.decoder.state_dict().items())


def test_only_the_bank_is_the_models_own() -> None:
    model = make_model()
    assert {id(p) for p in model.parameters()} == {id(p) for p in model.bank.parameters()}
    assert all(name.startswith("bank.") for name in model.state_dict())


# Knowledge


@BOTH
def test_prepared_knowledge_is_knowledge(encoder: str) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS)
    want = logits_of(model, inputs, CASTLE)
    assert moved(want, bare(model, inputs)) > 0.1
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
        assert moved(logits_of(model, inputs, fewer), want) > 1e-3


@pytest.mark.parametrize(("encoder", "kind"), builders.of_encoders("llama", "gpt2", "gpt_neox", "gemma2"))
@pytest.mark.parametrize("chunk_size", [1, 3])
def test_reading_in_chunks_is_reading_whole(encoder: str, kind: str, chunk_size: int) -> None:
    model = make_model(encoder, decoder=make_decoder(kind))
    whole, parts = model.prepare(CASTLE), model.prepare(CASTLE, chunk_size=chunk_size)
    assert len(whole) > 2 * chunk_size
    assert parts.position == whole.position
    for name, tensor in whole.tensors.items():
        assert tensor.abs().max() > 0.1
        torch.testing.assert_close(parts.tensors[name], tensor, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("encoder", "kind"), builders.of_encoders("llama", "opt", "gpt_neox", "gemma2"))
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_documents_read_together_are_as_read_alone(encoder: str, kind: str, chunk_size: int | None) -> None:
    model = make_model(encoder, decoder=make_decoder(kind))
    documents = [SHIP, " ".join((WORDS * 3)[:150]), CASTLE, RIVER, "the sea"]
    together = model.prepare_many(documents, batch_size=3, chunk_size=chunk_size)
    assert len({len(prepared) for prepared in together}) > 3
    for document, prepared in zip(documents, together, strict=True):
        alone = model.prepare(document)
        assert (prepared.position, len(prepared), prepared.bank) == (alone.position, len(alone), alone.bank)
        if chunk_size and len(alone) > WINDOW - len(model.anchor):
            continue  # its windows are cut elsewhere
        for name, tensor in alone.tensors.items():
            torch.testing.assert_close(prepared.tensors[name], tensor, atol=2e-5, rtol=1e-4)
    assert model.prepare_many([]) == []
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
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
    assert moved(logits_of(model, inputs, other), got) > 1e-3


@BOTH
def test_memory_goes_to_disk_and_back(encoder: str, tmp_path: Path) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS[0])
    prepared = model.prepare([CASTLE, RIVER])
    prepared.save(tmp_path / "deep" / "castle.safetensors")
    back = PreparedKnowledge.load(tmp_path / "deep" / "castle.safetensors")
    assert (back.position, back.bank, len(back)) == (prepared.position, prepared.bank, len(prepared))
    assert torch.equal(logits_of(model, inputs, back), logits_of(model, inputs, prepared))
    assert moved(logits_of(model, inputs, back), bare(model, inputs)) > 0.1


def test_a_damaged_memory_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

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


def test_what_cannot_be_meant_is_refused_with_advice() -> None:
    model = make_model()
    inputs = model.tokenize(QUESTIONS[:2])
    for knowledge, message in (
        ([CASTLE], "1 entries for 2 rows.*one entry a row"),
        ([CASTLE, None, RIVER], "3 entries for 2 rows"),
        ("", "knowledge is empty.*None for no knowledge"),
        (["  \n", CASTLE], "knowledge is empty"),
        (make_model(seed=1).prepare(CASTLE), "prepared by bank .*prepare the knowledge again"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**inputs, knowledge=knowledge)
        with pytest.raises(ValueError, match=message):
            model.generate(**inputs, knowledge=knowledge, max_new_tokens=1)
    with pytest.raises(ValueError, match="empty list.*at least one document"):
        model.prepare([])
    with pytest.raises(ValueError, match="input is empty.*give a question"):
        model.tokenize(" ")
    for ids in (torch.zeros(1, 0, dtype=torch.long), torch.tensor([1, 2])):
        with pytest.raises(ValueError, match="expected \\[rows, tokens\\]"):
            model(ids, knowledge=CASTLE)
    long = torch.full((1, WINDOW + 1), 5)
    for call in (model, model.generate):
        with pytest.raises(ValueError, match=f"{WINDOW + 1} tokens, but the decoder's window is {WINDOW}; shorten it"):
            call(long, knowledge=CASTLE)
    with pytest.raises(ValueError, match="needs input_ids"):
        model.generate(knowledge=CASTLE)
    bare_model = DiekaeModel(model.decoder, model.config)
    with pytest.raises(ValueError, match="texts need a tokenizer"):
        bare_model(**inputs, knowledge=CASTLE)
    assert hook_count(model.decoder) == 0


def test_what_is_of_another_kind_is_named_with_what_was_expected(tmp_path: Path) -> None:
    model = make_model()
    for wrong in (None, 3, {"text": CASTLE}, model.prepare(CASTLE), [CASTLE, None], [3]):
        with pytest.raises(TypeError, match="knowledge (is|holds) .*expected a document, or a list of documents, each"):
            model.prepare(wrong)
        with pytest.raises(TypeError, match="documents (is|holds) .*expected a list of documents, each a str"):
            model.prepare_many(wrong)
        with pytest.raises(TypeError, match="texts (is|holds) .*expected a question, or a list of at least one"):
            model.tokenize(wrong)
    with pytest.raises(TypeError, match=r"knowledge is .*; read the file first: path.read_text\(\)"):
        model.prepare(tmp_path / "fact.txt")
    with pytest.raises(ValueError, match="texts is empty .*give a question"):
        model.tokenize([])
    assert len(model.prepare_many(CASTLE)) == 1, "a text is one document, and not its letters"
    for call in (model, model.generate):
        with pytest.raises(
            TypeError, match=r"is the text 'where is it'.*model.generate\(\*\*model.tokenize\('where is it'"
        ):
            call("where is it")
        with pytest.raises(TypeError, match="input_ids is list; expected a tensor"):
            call([1, 2])
        with pytest.raises(TypeError, match="is of type torch.float32; expected token ids"):
            call(torch.ones(1, 2))


def test_what_is_no_decoder_is_named_with_the_way_to_one(tmp_path: Path) -> None:
    for name in ("smollm2", tmp_path):
        with pytest.raises(TypeError, match="is the name '.*DiekaeModel.from_pretrained.*= load_decoder\\('"):
            DiekaeModel(name)
        with pytest.raises(TypeError, match="is the name"):
            DiekaeModel.exact(name)
    for wrong in (None, (make_decoder(), None), torch.nn.Linear(2, 2)):
        with pytest.raises(TypeError, match="decoder is of type .*expected a \\*ForCausalLM of Transformers"):
            DiekaeModel(wrong)


@BOTH
def test_a_memory_says_on_one_line_what_it_is(encoder: str) -> None:
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


def test_memory_is_stale_once_the_bank_has_learned() -> None:
    model = make_model()
    inputs = model.tokenize(QUESTIONS[0])
    prepared = model.prepare(CASTLE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**inputs, knowledge=CASTLE).logits.square().sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match="prepare the knowledge again"):
        model(**inputs, knowledge=prepared)


# Disk


@BOTH
@SCOPES
@pytest.mark.parametrize("half", [False, True])
def test_a_saved_bank_comes_back(encoder: str, scope: str, half: bool, tmp_path: Path) -> None:
    model = make_model(encoder, scope=scope, layers=(1, 3))
    with torch.no_grad():
        model.bank.bias.normal_(0, 0.1)
        model.bank.scale.fill_(1.5)
    inputs = model.tokenize(QUESTIONS[0])
    want = logits_of(model, inputs, CASTLE)
    assert moved(want, bare(model, inputs)) > 0.1
    if half:
        model.bank.to(torch.bfloat16)
        torch.testing.assert_close(logits_of(model, inputs, CASTLE), want, atol=0.1, rtol=0.1)
    model.save_pretrained(tmp_path / "bank")
    assert sorted(os.listdir(tmp_path / "bank")) == [weights_of(tmp_path / "bank").name, CONFIG_NAME]
    back = DiekaeModel.from_pretrained(tmp_path / "bank", model.decoder, model.tokenizer)
    assert back.config == model.config and back.layers == (1, 3) and back.anchor == model.anchor
    got = logits_of(back, inputs, CASTLE)
    if half:
        torch.testing.assert_close(got, want, atol=0.1, rtol=0.1)
    else:
        assert torch.equal(got, want)
        assert back.bank.fingerprint() == model.bank.fingerprint()


def test_tensors_on_disk_are_named_by_decoder_layer(tmp_path: Path) -> None:
    model = make_model(layers=(1, 3))
    model.save_pretrained(tmp_path)
    saved = load_file(weights_of(tmp_path))
    assert {name.split(".")[1] for name in saved} == {"1", "3"}
    assert torch.equal(saved["layers.3.up.weight"], model.bank.encoder.up.weight[1])


def test_another_decoder_is_refused(tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    other = make_decoder(seed=1)
    with pytest.raises(ValueError, match="was made for decoder .*check=False"):
        DiekaeModel.from_pretrained(tmp_path, other, model.tokenizer)
    inputs = model.tokenize(QUESTIONS[0])
    back = DiekaeModel.from_pretrained(tmp_path, other, model.tokenizer, check=False)
    assert torch.equal(back.bank.encoder.up.weight, model.bank.encoder.up.weight)
    assert moved(logits_of(back, inputs, CASTLE), bare(back, inputs)) > 0.1
    same = DiekaeModel.from_pretrained(tmp_path, make_decoder().to(torch.bfloat16), model.tokenizer)
    assert same.layers == model.layers


def test_a_folder_that_holds_no_whole_bank_is_refused(tmp_path: Path) -> None:
    model = make_model()
    with pytest.raises(FileNotFoundError, match="is not a bank"):
        DiekaeModel.from_pretrained(tmp_path / "nowhere", model.decoder)
    model.save_pretrained(tmp_path)
    weights, description = (weights_of(tmp_path)).read_bytes(), json.loads((tmp_path / CONFIG_NAME).read_text())

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            DiekaeModel.from_pretrained(tmp_path, model.decoder)

    flipped = bytearray(weights)
    flipped[-5] ^= 1
    for damaged in (bytes(flipped), weights[:-8], b""):
        (weights_of(tmp_path)).write_bytes(damaged)
        refused("is damaged")
    (weights_of(tmp_path)).write_bytes(weights)
    for text in ("", "{", "[]", '{"model_type": "llama"}', json.dumps({**description, "config": None})):
        (tmp_path / CONFIG_NAME).write_text(text)
        refused("describes no bank")
    (tmp_path / CONFIG_NAME).write_text(json.dumps({**description, "format": 99}))
    refused("format 99; update diekae")
    for config in ({"layers": [0, 1]}, {"encoder": "token", "encoder_options": SMALL["token"]}):
        changed = {**description, "config": {**description["config"], **config}}
        (tmp_path / CONFIG_NAME).write_text(json.dumps(changed))
        refused("do not fit the bank.s configuration")
    smaller = {**description["config"], "encoder_options": {**SMALL["reader"], "mlp_width": 8}}
    (tmp_path / CONFIG_NAME).write_text(json.dumps({**description, "config": smaller}))
    refused("has shape")
    (tmp_path / CONFIG_NAME).write_text(json.dumps(description))
    assert DiekaeModel.from_pretrained(tmp_path, model.decoder).layers == model.layers


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_failing_disk_leaves_the_old_bank_whole(name: str, call: int, tmp_path: Path, monkeypatch) -> None:
    old, new = make_model(), make_model(seed=1)
    old.save_pretrained(tmp_path)
    before = sorted(os.listdir(tmp_path))
    real, calls = getattr(os, name), []

    def fail(*args):
        calls.append(args)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(OSError, match="No space left"):
            new.save_pretrained(tmp_path)
    assert len(calls) == call, "the failure must have happened"
    assert sorted(os.listdir(tmp_path)) == before, "nothing temporary stays"
    back = DiekaeModel.from_pretrained(tmp_path, old.decoder)
    assert torch.equal(back.bank.encoder.up.weight, old.bank.encoder.up.weight)


# Counting


def test_trainable_parameters_are_printed(capsys) -> None:
    model = make_model()
    model.print_trainable_parameters()
    line = capsys.readouterr().out
    own = sum(p.numel() for p in model.bank.parameters())
    every = own + sum(p.numel() for p in model.decoder.parameters())
    assert re.findall(r"[\d,.]+", line) == [f"{own:,}", f"{every:,}", f"{100 * own / every:.4f}"]


def test_the_papers_encoders_have_the_papers_size() -> None:
    config = DiekaeConfig.preset("paper")
    token = encoder_class(config.encoder)
    counts = {}
    for number in (1, 6):
        with torch.device("meta"):
            bank = token(number, 4096, 4096, token.make_options(config.encoder_options))
        counts[number] = sum(parameter.numel() for parameter in bank.parameters())
    assert counts == {1: 2_098_304, 6: 12_589_824}
