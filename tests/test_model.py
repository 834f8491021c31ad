"""The model over one forward: which columns receive differences, and which arguments are refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import builders
from builders import WINDOW, bare_logits, hook_count, largest_change, logits_of, make_decoder, make_model
from diekae import DiekaeConfig, DiekaeModel
from diekae.encoders import encoder_class
from diekae.inject.hookpoints import stack_of

CASTLE = "the castle was built by king four in the north and two towers are red"
RIVER = "a river has seven dogs"
SHIP = "the silver ship opened in the year nine"
QUESTIONS = ["who built the castle", "where are the dogs from", "what opened in the light of day"]

BOTH = pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
SITES = pytest.mark.parametrize(("encoder", "site"), builders.SITES)
SCOPES = pytest.mark.parametrize("scope", ["all", "prompt"])


def positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


# Which columns receive


@BOTH
@SCOPES
def test_without_knowledge_the_decoder_is_untouched(encoder: str, scope: str) -> None:
    model = make_model(encoder, scope=scope)
    inputs = model.tokenize(QUESTIONS)
    want = bare_logits(model, inputs)
    assert torch.equal(logits_of(model, inputs), want)
    assert torch.equal(logits_of(model, inputs, [None] * 3), want)
    assert largest_change(logits_of(model, inputs, CASTLE), want) > 0.1


@pytest.mark.parametrize("encoder", ["reader", "token"])
def test_an_untrained_bank_changes_nothing(encoder: str) -> None:
    model = make_model(encoder, effect=0.0)
    inputs = model.tokenize(QUESTIONS)
    torch.testing.assert_close(logits_of(model, inputs, CASTLE), bare_logits(model, inputs), atol=0, rtol=0)


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_untrained_attention_bank_gives_the_logits_of_k_in_the_prompt(question: str) -> None:
    """In all layers; in some of them it is part of it, and nothing only where it is in none."""
    model, half = (make_model("attention", effect=0.0, layers=layers) for layers in ("all", (1, 3)))
    ids, a = model.tokenize(question)["input_ids"], len(model.anchor)
    known = torch.tensor([model.need_prompter().knowledge(CASTLE)])
    want = bare_logits(model, {"input_ids": torch.cat([ids[:, :a], known, ids[:, a:]], dim=1)})[:, a + known.shape[1] :]
    nothing = bare_logits(model, {"input_ids": ids})[:, a:]
    assert largest_change(want, nothing) > 0.1
    assert largest_change(logits_of(model, {"input_ids": ids}, CASTLE)[:, a:], want) <= 1e-5
    part = logits_of(half, {"input_ids": ids}, CASTLE)[:, a:]
    assert largest_change(part, want) > 0.1 and largest_change(part, nothing) > 0.1


@SITES
def test_rows_without_knowledge_are_unchanged_bit_for_bit_in_a_mixed_batch(encoder: str, site: str) -> None:
    model = make_model(encoder, site=site)
    inputs = model.tokenize(QUESTIONS)
    want = bare_logits(model, inputs)
    got = logits_of(model, inputs, [CASTLE, None, [SHIP, RIVER]])
    assert torch.equal(got[1], want[1])
    assert largest_change(got[0], want[0]) > 0.1
    assert largest_change(got[2], want[2]) > 0.1


@BOTH
def test_the_anchor_receives_nothing_and_an_own_anchor_does(encoder: str) -> None:
    inputs = make_model(encoder).tokenize(QUESTIONS[0])
    for anchor, touched in (("shared", False), ("own", True)):
        model = make_model(encoder, anchor=anchor)
        got, want = logits_of(model, inputs, CASTLE), bare_logits(model, inputs)
        assert torch.equal(got[:, 0], want[:, 0]) is not touched
        assert largest_change(got[:, 1:], want[:, 1:]) > 0.1


@BOTH
def test_a_batch_gives_the_logits_of_its_rows_alone(encoder: str) -> None:
    model = make_model(encoder)
    knowledge = [CASTLE, [RIVER, SHIP], RIVER]
    inputs = model.tokenize(QUESTIONS)
    together = logits_of(model, inputs, knowledge, position_ids=positions(inputs["attention_mask"]))
    for row, question in enumerate(QUESTIONS):
        alone = model.tokenize(question)
        length = alone["input_ids"].shape[1]
        want = logits_of(model, alone, [knowledge[row]])[0]
        assert largest_change(want, bare_logits(model, alone)[0]) > 0.1
        torch.testing.assert_close(together[row, -length:], want, atol=1e-5, rtol=1e-5)


@BOTH
def test_left_and_right_padding_give_the_same_logits(encoder: str) -> None:
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
    assert largest_change(b[0], bare_logits(model, right)[0]) > 0.1
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(a[row, -length:], b[row, :length], atol=1e-5, rtol=1e-5)


@BOTH
def test_the_injection_mask_selects_columns(encoder: str) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS[0])
    mask = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    mask[:, 3:] = True
    got, want = logits_of(model, inputs, CASTLE, injection_mask=mask), bare_logits(model, inputs)
    assert torch.equal(got[:, :3], want[:, :3])
    assert largest_change(got[:, 3:], want[:, 3:]) > 0.1
    assert torch.equal(logits_of(model, inputs, CASTLE, injection_mask=torch.zeros_like(mask)), want)


@BOTH
def test_forward_with_a_cache_equals_forward_over_all_columns(encoder: str) -> None:
    model = make_model(encoder)
    ids = model.tokenize(QUESTIONS[2])["input_ids"]
    with torch.no_grad():
        want = model(ids, knowledge=CASTLE).logits
        first = model(ids[:, :4], knowledge=CASTLE, use_cache=True)
        rest = [first.logits]
        for column in range(4, ids.shape[1]):
            step = ids[:, column : column + 1]
            rest.append(model(step, knowledge=CASTLE, cache=first.cache, use_cache=True).logits)
    assert largest_change(want, bare_logits(model, {"input_ids": ids})) > 0.1
    torch.testing.assert_close(torch.cat(rest, 1), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated")
@torch.no_grad()
def test_a_cache_is_taken_under_its_earlier_name_too(encoder: str) -> None:
    model = make_model(encoder)
    ids = model.tokenize(QUESTIONS[2])["input_ids"]
    want, new = model(ids, knowledge=CASTLE).logits[:, 4:], ids[:, 4:]

    def begun() -> Any:
        return model(ids[:, :4], knowledge=CASTLE, use_cache=True).cache

    torch.testing.assert_close(model(new, knowledge=CASTLE, past_key_values=begun()).logits, want, atol=1e-5, rtol=1e-5)
    options = {"knowledge": CASTLE, "max_new_tokens": 4, "do_sample": False}
    generated = model.generate(ids, past_key_values=begun(), **options)
    assert torch.equal(generated, model.generate(ids, **options))
    for run in (model.decoder, stack_of(model.decoder)):
        with model.injected(CASTLE, ids):
            cache = run(input_ids=ids[:, :4], use_cache=True).cache
            states = run(input_ids=new, past_key_values=cache)[0]
            assert run is not model.decoder or largest_change(states, want) < 1e-4
            cache = run(input_ids=ids[:, :4], use_cache=True).cache
            assert torch.equal(run(input_ids=new, cache=cache)[0], states)


@BOTH
def test_no_hook_stays_on_the_decoder(encoder: str) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS)
    state = {name: tensor.clone() for name, tensor in model.decoder.state_dict().items()}
    before = bare_logits(model, inputs)
    logits_of(model, inputs, CASTLE)
    with pytest.raises(RuntimeError, match="inside"), model.injected(CASTLE, inputs["input_ids"]):
        assert hook_count(model.decoder) > 0
        raise RuntimeError("inside")
    assert hook_count(model.decoder) == 0
    assert torch.equal(bare_logits(model, inputs), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.decoder.state_dict().items())


def test_only_the_banks_parameters_are_the_models() -> None:
    model = make_model()
    assert {id(p) for p in model.parameters()} == {id(p) for p in model.bank.parameters()}
    assert all(name.startswith("bank.") for name in model.state_dict())


# Arguments


def test_invalid_arguments_are_refused_with_advice() -> None:
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


def test_arguments_of_a_wrong_type_are_refused_with_advice(tmp_path: Path) -> None:
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


def test_what_is_not_a_decoder_is_refused_with_advice(tmp_path: Path) -> None:
    for name in ("smollm2", tmp_path):
        with pytest.raises(TypeError, match="is the name '.*DiekaeModel.from_pretrained.*= load_decoder\\('"):
            DiekaeModel(name)
        with pytest.raises(TypeError, match="is the name"):
            DiekaeModel.exact(name)
    for wrong in (None, (make_decoder(), None), torch.nn.Linear(2, 2)):
        with pytest.raises(TypeError, match="decoder is of type .*expected a \\*ForCausalLM of Transformers"):
            DiekaeModel(wrong)


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


@BOTH
@pytest.mark.parametrize("name", ["injection_mask", "attention_mask"])
@pytest.mark.parametrize("shape", [(1, 3), (2, 5), (5,), (1, 1, 1, 5), (1, 1)])
def test_a_mask_of_another_shape_than_the_prompt_is_refused(encoder: str, name: str, shape: tuple[int, ...]) -> None:
    model = make_model(encoder)
    ids = model.tokenize(QUESTIONS[0])["input_ids"]
    assert ids.shape == (1, 5)
    mask = torch.ones(shape, dtype=torch.bool)
    with pytest.raises(ValueError, match=rf"{name} has shape .*; expected \(1, 5\)"):
        model(ids, knowledge=CASTLE, **{name: mask})
    with pytest.raises(ValueError, match=f"{name} has shape"):
        model.injected(CASTLE, ids, **{name: mask})
    with pytest.raises(TypeError, match=f"{name} is list; expected a tensor"):
        model.injected(CASTLE, ids, **{name: [True] * 5})


@BOTH
def test_a_mask_over_a_cache_covers_the_new_columns_or_all(encoder: str) -> None:
    model = make_model(encoder)
    ids = model.tokenize(QUESTIONS[0])["input_ids"]
    with torch.no_grad():
        for width in (3, 5):
            cache = model(ids[:, :2], knowledge=CASTLE, use_cache=True).cache
            mask = torch.ones(1, width, dtype=torch.bool)
            model(ids[:, 2:], knowledge=CASTLE, injection_mask=mask, cache=cache)
        cache = model(ids[:, :2], knowledge=CASTLE, use_cache=True).cache
        with pytest.raises(ValueError, match=r"injection_mask has shape \(1, 4\); expected \(1, 5\)"):
            wrong = torch.ones(1, 4, dtype=torch.bool)
            model(ids[:, 2:], knowledge=CASTLE, injection_mask=wrong, cache=cache)
