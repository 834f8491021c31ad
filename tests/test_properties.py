"""What must hold of the model whatever the encoder: absence, batching, padding, caching, threads, disk."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import DEPTH, WINDOW, hook_count, make_decoder, make_model, make_tokenizer

import diekae
from diekae import DiekaeConfig, DiekaeModel, Memory

ENCODERS = ("reader", "token")
TEXTS = ("the red castle on the hill was built by king man", "a blue river")
QUESTIONS = ("who built the castle", "where is the deep blue lake on the hill")


def left(model: DiekaeModel) -> dict[str, torch.Tensor]:
    """Both questions, padded on the left, with the positions generate would give them."""
    inputs = model.tokenize(QUESTIONS)
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return {**inputs, "position_ids": positions}


def alone(model: DiekaeModel, question: str, knowledge: Any) -> torch.Tensor:
    """The logits of one question by itself."""
    return model(**model.tokenize(question), knowledge=knowledge).logits[0].detach()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_knowledge_changes_the_output_and_its_absence_does_not(encoder: str) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS[0])
    bare = model.decoder(**inputs).logits
    assert torch.equal(model(**inputs).logits, bare)
    assert torch.equal(model(**inputs, knowledge=[None]).logits, bare)
    changed = model(**inputs, knowledge=TEXTS[0]).logits
    assert (changed - bare)[0, 1:].abs().max() > 0.1
    assert torch.equal(changed[0, 0], bare[0, 0]), "the anchor receives nothing"
    assert (model(**inputs, knowledge=TEXTS[1]).logits - changed).abs().max() > 1e-3, "what K says matters"
    assert hook_count(model.decoder) == 0


@pytest.mark.parametrize("encoder", ENCODERS)
def test_rows_are_what_they_are_alone(encoder: str) -> None:
    model = make_model(encoder)
    inputs = left(model)
    bare = model.decoder(**inputs).logits
    mixed = model(**inputs, knowledge=[None, TEXTS[0]]).logits
    assert torch.equal(mixed[0], bare[0]), "a row without knowledge is the bare decoder's, bit for bit"
    both = model(**inputs, knowledge=[TEXTS[1], TEXTS[0]]).logits
    for row, (question, text) in enumerate(zip(QUESTIONS, (TEXTS[1], TEXTS[0]), strict=True)):
        expected = alone(model, question, text)
        torch.testing.assert_close(both[row, -len(expected) :], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_left_padding_equals_right_padding(encoder: str) -> None:
    model = make_model(encoder)
    inputs = left(model)
    lengths = inputs["attention_mask"].sum(1).tolist()
    rolled = {}
    for name in ("input_ids", "attention_mask"):
        rolled[name] = torch.stack([row.roll(n, 0) for row, n in zip(inputs[name], lengths, strict=True)])
    on_left = model(**inputs, knowledge=list(TEXTS)).logits
    on_right = model(**rolled, knowledge=list(TEXTS)).logits
    for row, n in enumerate(lengths):
        torch.testing.assert_close(on_left[row, -n:], on_right[row, :n], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_prepared_documents(encoder: str, tmp_path: Path) -> None:
    model = make_model(encoder)
    text = alone(model, QUESTIONS[0], TEXTS[0])
    memory = model.prepare(TEXTS[0])
    assert torch.equal(alone(model, QUESTIONS[0], memory), text)
    memory.save(tmp_path / "memory.safetensors")
    assert torch.equal(alone(model, QUESTIONS[0], Memory.load(tmp_path / "memory.safetensors")), text)
    chunked = alone(model, QUESTIONS[0], model.prepare(TEXTS[0], chunk_size=3))
    torch.testing.assert_close(chunked, text, atol=1e-4, rtol=1e-4)
    one = alone(model, QUESTIONS[0], [[TEXTS[0], TEXTS[1]]])
    other = alone(model, QUESTIONS[0], [[TEXTS[1], TEXTS[0]]])
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert (one - text).abs().max() > 1e-3
    long = model.prepare(" ".join(TEXTS * 12))
    assert len(long) > WINDOW, "knowledge may pass the decoder's window"
    assert torch.isfinite(alone(model, QUESTIONS[0], long)).all()


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("scope", ["all", "prompt"])
def test_cached_generation_equals_recomputation(encoder: str, scope: str) -> None:
    model = make_model(encoder, scope=scope)
    inputs = model.tokenize(QUESTIONS[0])
    prompt = inputs["input_ids"].shape[1]
    cached = model.generate(**inputs, knowledge=TEXTS[0], max_new_tokens=8, do_sample=False, eos_token_id=None)
    ids = inputs["input_ids"]
    for _ in range(8):
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[:, 0] = False
        if scope == "prompt":
            mask[:, prompt:] = False
        logits = model(ids, knowledge=TEXTS[0], injection_mask=mask, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(cached, ids)
    bare = model.decoder.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None)
    assert not torch.equal(cached, bare)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_beams_and_batches_and_samples(encoder: str) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS)
    options: dict[str, Any] = {"max_new_tokens": 7, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for beams in (1, 3):
        together = model.generate(**inputs, knowledge=list(TEXTS), num_beams=beams, **options)
        recomputed = model.generate(**inputs, knowledge=list(TEXTS), num_beams=beams, use_cache=False, **options)
        assert torch.equal(together, recomputed)
        for row, (question, text) in enumerate(zip(QUESTIONS, TEXTS, strict=True)):
            single = model.generate(**model.tokenize(question), knowledge=text, num_beams=beams, **options)
            assert torch.equal(together[row, -7:], single[0, -7:])
    torch.manual_seed(3)
    samples = model.generate(
        **inputs, knowledge=list(TEXTS), do_sample=True, num_return_sequences=2, max_new_tokens=5, pad_token_id=0
    )
    assert samples.shape[0] == 4


def test_two_threads_do_not_mix() -> None:
    model = make_model("reader")
    inputs = model.tokenize(QUESTIONS[0])
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    knowledge = [*TEXTS, None]
    expected = [model.generate(**inputs, knowledge=text, **options) for text in knowledge]
    assert len({tuple(row[0].tolist()) for row in expected}) == 3
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            if not torch.equal(model.generate(**inputs, knowledge=knowledge[number], **options), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert hook_count(model.decoder) == 0


@pytest.mark.parametrize("encoder", ENCODERS)
def test_saving_and_loading(encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(encoder, layers=(1, 3), normalize=True)
    model.bank.bias.normal_()
    model.bank.scale.uniform_(0.5, 2)
    expected = alone(model, QUESTIONS[0], TEXTS[0])
    model.save_pretrained(tmp_path / "bank")
    loaded = DiekaeModel.from_pretrained(tmp_path / "bank", make_decoder(), make_tokenizer())
    assert torch.equal(alone(loaded, QUESTIONS[0], TEXTS[0]), expected)
    loaded.bank.to(torch.bfloat16)
    torch.testing.assert_close(alone(loaded, QUESTIONS[0], TEXTS[0]), expected, atol=0.3, rtol=0.3)
    half = DiekaeModel.from_pretrained(tmp_path / "bank", make_decoder().to(torch.bfloat16), make_tokenizer())
    assert half.layers == (1, 3)
    with pytest.raises(ValueError, match="made for decoder"):
        DiekaeModel.from_pretrained(tmp_path / "bank", make_decoder(seed=1), make_tokenizer())
    with torch.no_grad():
        model.bank.encoder.up.weight.zero_()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("diekae.files.os.fsync", full)
        model.save_pretrained(tmp_path / "bank")
    again = DiekaeModel.from_pretrained(tmp_path / "bank", make_decoder(), make_tokenizer())
    assert torch.equal(alone(again, QUESTIONS[0], TEXTS[0]), expected), "the old bank is whole"
    assert sorted(path.name for path in (tmp_path / "bank").iterdir()) == ["bank.safetensors", "config.json"]
    weights = tmp_path / "bank" / "bank.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + b"\0" * 8)
    with pytest.raises(ValueError, match="damaged"):
        DiekaeModel.from_pretrained(tmp_path / "bank", make_decoder(), make_tokenizer())
    (tmp_path / "bank" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="describes no bank"):
        DiekaeModel.from_pretrained(tmp_path / "bank", make_decoder(), make_tokenizer())
    with pytest.raises(FileNotFoundError, match="is not a bank"):
        DiekaeModel.from_pretrained(tmp_path, make_decoder(), make_tokenizer())


def test_bad_input_says_what_to_do(tmp_path: Path) -> None:
    model = make_model("reader")
    inputs = model.tokenize(QUESTIONS)
    with pytest.raises(ValueError, match="one entry a row"):
        model(**inputs, knowledge=[TEXTS[0]])
    with pytest.raises(ValueError, match="knowledge is empty"):
        model.prepare("  ")
    with pytest.raises(ValueError, match="input is empty"):
        model.tokenize("")
    with pytest.raises(ValueError, match="expected \\[rows, tokens\\]"):
        model(torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(ValueError, match=f"window is {WINDOW}"):
        model(torch.ones(1, WINDOW + 1, dtype=torch.long), knowledge=TEXTS[0])
    foreign = make_model("reader", seed=9).prepare(TEXTS[0])
    with pytest.raises(ValueError, match="prepare the knowledge again"):
        model(**model.tokenize(QUESTIONS[0]), knowledge=foreign)
    (tmp_path / "broken").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a memory"):
        Memory.load(tmp_path / "broken")
    for layers, message in (((DEPTH,), "names layer 4"), ("memit", "names layer"), ("evry:2", "not known")):
        with pytest.raises(ValueError, match=message):
            DiekaeModel(make_decoder(), DiekaeConfig(layers=layers))
    with pytest.raises(ValueError, match="Did you mean 'reader'"):
        DiekaeConfig(encoder="raeder")
    with pytest.raises(ValueError, match="Did you mean 'width'"):
        DiekaeConfig(encoder_options={"widht": 3})
    with pytest.warns(UserWarning, match="Did you mean 'scope'"):
        DiekaeConfig.from_dict({"scop": "all"})


def test_an_untrained_bank_is_the_identity(capsys: pytest.CaptureFixture[str]) -> None:
    for encoder in ENCODERS:
        model = DiekaeModel(make_decoder(), DiekaeConfig(encoder=encoder), make_tokenizer())
        inputs = model.tokenize(QUESTIONS[0])
        assert torch.equal(model(**inputs, knowledge=TEXTS[0]).logits, model.decoder(**inputs).logits)
    model.print_trainable_parameters()
    assert "trainable params" in capsys.readouterr().out


def test_the_paper_s_encoder_has_the_paper_s_parameters() -> None:
    options = DiekaeConfig.preset("paper").encoder_options
    for count, expected in ((1, 2_098_304), (6, 12_589_824)):
        kind = diekae.encoders.Token
        with torch.device("meta"):
            bank = kind(count, 4096, 4096, kind.make_options(options))
        assert sum(parameter.numel() for parameter in bank.parameters()) == expected


@pytest.mark.real
def test_oracle_on_the_real_model(smollm2: tuple[Any, Any]) -> None:
    from diekae.data import Example
    from diekae.data.prompt import Prompter, collate
    from diekae.differences import collect
    from diekae.inject.hookpoints import find_hookpoints
    from diekae.inject.hooks import visiting

    decoder, tokenizer = smollm2
    prompter = Prompter(tokenizer, DiekaeConfig().template, "qa")
    example = Example(("The Zorblax Tower was designed by Petra Quill.",), "Who designed the tower?", "Petra Quill")
    prompt = prompter.prompt(example)
    batch = collate([prompt], scope="all", anchor="shared")
    for site in ("block", "attention"):
        points = find_hookpoints(decoder, tuple(range(30)), site)
        found = collect(decoder, points, batch)
        assert float(found.targets[:, :, 0].abs().max()) == 0.0, "the anchor's difference is exactly zero"
        mask = batch["receives"][..., None]
        with torch.no_grad():
            with visiting(points, lambda n, stream, _, m=mask, f=found: torch.where(m, f.targets[n], 0 * stream)):
                ours = decoder(batch["input_ids"]).logits[0, 1:]
            prompted = decoder(batch["full_ids"]).logits[0, 1 + len(prompt.knowledge) :]
            bare = decoder(batch["input_ids"]).logits[0, 1:]
        assert (bare - prompted).abs().max() > 1.0
        torch.testing.assert_close(ours, prompted, atol=2e-4, rtol=1e-4)
