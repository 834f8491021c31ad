"""Reading K through the decoder's own attention: in all layers, untrained, the logits are those of D(K, x)."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import VOCABULARY, hook_count
from diekae import DiekaeModel
from diekae.data.prompt import Prompt
from diekae.run.score import target_logits
from readings import (
    CASTLE,
    CHANGE,
    OFF,
    ONLY_EAGER,
    QUESTIONS,
    RIVER,
    VARIANTS,
    exact_model,
    in_prompt,
    make_exact,
    make_variant,
    off,
    ours,
    prompted,
    right_padded,
)

EVERY = pytest.mark.parametrize("name", VARIANTS)
SOME = pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3, alternating", "mistral, window shorter than K"])
NEW = 12
"""Generated tokens; with the question they exceed the shortest windows."""


def write(model: DiekaeModel, ids: Tensor, knowledge: Any = None, **options: Any) -> tuple[Tensor, Tensor]:
    """Exactly ``NEW`` tokens for each row, greedy by default, and the logits of each."""
    given = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, **options}
    found = model.generate(ids, knowledge=knowledge, return_dict_in_generate=True, output_logits=True, **given)
    return found.sequences[:, ids.shape[1] :], torch.stack(found.logits, dim=1)


def check_written(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(got[0], want[0])
    assert off(got[1], want[1]) <= OFF


# Exactness


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@EVERY
def test_logits_equal_those_with_k_in_the_prompt(name: str, attention: str) -> None:
    if attention == "sdpa" and VARIANTS[name][0] in ONLY_EAGER:
        pytest.skip("Transformers runs it with its own products alone")
    model = exact_model(name, attention)
    assert model.decoder.config._attn_implementation == f"diekae_{attention}"
    want = prompted(model, QUESTIONS[0], CASTLE)
    assert off(want, prompted(model, QUESTIONS[0], None)) > CHANGE, "K must matter, or this shows nothing"
    assert off(ours(model, QUESTIONS[0], CASTLE), want) <= OFF


@pytest.mark.parametrize("padded", ["left", "right"])
@EVERY
def test_each_row_of_a_padded_batch_reads_its_own_knowledge(name: str, padded: str) -> None:
    model = exact_model(name)
    inputs = model.tokenize(QUESTIONS) if padded == "left" else right_padded(model, QUESTIONS)
    lengths = inputs["attention_mask"].sum(1).tolist()
    assert len(set(lengths)) == 3
    knowledge = [CASTLE, None, RIVER]
    with torch.no_grad():
        got = model(**inputs, knowledge=knowledge).logits
        bare = model.decoder(**inputs).logits
    for row, (question, known, length) in enumerate(zip(QUESTIONS, knowledge, lengths, strict=True)):
        columns = slice(-length, None) if padded == "left" else slice(0, length)
        behind = got[row, columns][len(model.anchor) :]
        if known is None:
            # Experts run over the tokens of all rows together: products of another size round differently.
            assert torch.equal(got[row], bare[row]) or (hasattr(model.decoder.config, "num_experts_per_tok"))
            assert off(got[row, columns], bare[row, columns]) <= OFF
        else:
            assert off(behind, prompted(model, question, known)) <= OFF
            assert off(behind, bare[row, columns][len(model.anchor) :]) > CHANGE


@EVERY
@pytest.mark.parametrize("chunk_size", [1, 7, 30])
def test_k_read_in_chunks_equals_k_read_whole(name: str, chunk_size: int) -> None:
    model = exact_model(name)
    prepared = model.prepare(CASTLE, chunk_size=chunk_size)
    assert off(ours(model, QUESTIONS[0], prepared), prompted(model, QUESTIONS[0], CASTLE)) <= OFF


@EVERY
def test_greedy_generation_equals_that_with_k_in_the_prompt(name: str) -> None:
    model = exact_model(name)
    ids, full = model.tokenize(QUESTIONS[0])["input_ids"], in_prompt(model, QUESTIONS[0], CASTLE)[0]
    want = write(model, full)
    check_written(write(model, ids, CASTLE), want)
    check_written(write(model, ids, CASTLE, cache_implementation="static"), want)
    check_written(write(model, ids, CASTLE, use_cache=False), want)
    assert off(write(model, ids)[1][:, 0], want[1][:, 0]) > CHANGE, "K must matter, or this shows nothing"
    assert hook_count(model.decoder) == 0


@EVERY
def test_beams_equal_those_with_k_in_the_prompt(name: str) -> None:
    model = exact_model(name)
    ids, full = model.tokenize(QUESTIONS[0])["input_ids"], in_prompt(model, QUESTIONS[0], CASTLE)[0]
    beams = {"num_beams": 3, "num_return_sequences": 3}
    want = write(model, full, **beams)
    check_written(write(model, ids, CASTLE, **beams), want)


@SOME
def test_rejected_tokens_of_prompt_lookup_change_nothing(name: str) -> None:
    model = exact_model(name)
    ids = model.tokenize(QUESTIONS[0])["input_ids"]
    assert torch.equal(write(model, ids, CASTLE)[0], write(model, ids, CASTLE, prompt_lookup_num_tokens=3)[0])


@SOME
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_a_padded_batch_generates_what_each_prompt_generates(name: str, cache: str) -> None:
    model = exact_model(name)
    inputs, knowledge = model.tokenize(QUESTIONS), [CASTLE, None, [RIVER]]
    given = {"attention_mask": inputs["attention_mask"], "cache_implementation": cache}
    tokens, logits = write(model, inputs["input_ids"], knowledge, **given)
    for row, known in enumerate([CASTLE, None, RIVER]):
        alone = write(model, in_prompt(model, QUESTIONS[row], known)[0])
        check_written((tokens[row : row + 1], logits[row : row + 1]), alone)


@SOME
@pytest.mark.parametrize("anchor", ["shared", "own"])
@pytest.mark.parametrize("length", [1, 4])
def test_anchors_of_any_length_are_shared_or_own_as_configured(name: str, anchor: str, length: int) -> None:
    """With an own anchor D reads anchor, K, anchor, x; with a shared one anchor, K, x."""
    model = make_exact(make_variant(name), anchor=anchor)
    model.anchor = (1, 17, 5, 40)[:length]
    x = torch.tensor([[*model.anchor, 9, 23, 77, 12, 31]])
    known = model.need_prompter().knowledge(CASTLE)
    behind = torch.tensor([[*model.anchor, *known]])
    full = torch.cat([behind, x if anchor == "own" else x[:, length:]], dim=1)
    with torch.no_grad():
        want = model.decoder(input_ids=full).logits[0, -5:]
        got = model(x, knowledge=CASTLE).logits[0, -5:]
        bare = model.decoder(input_ids=x).logits[0, -5:]
    assert off(want, bare) > CHANGE
    assert off(got, want) <= OFF


def test_fewer_layers_recover_less() -> None:
    decoder = make_variant("llama")
    whole, half = make_exact(decoder), make_exact(decoder, layers=[1, 3])
    want = prompted(whole, QUESTIONS[0], CASTLE)
    assert off(ours(whole, QUESTIONS[0], CASTLE), want) <= OFF
    assert off(ours(half, QUESTIONS[0], CASTLE), want) > CHANGE
    assert off(ours(half, QUESTIONS[0], CASTLE), prompted(half, QUESTIONS[0], None)) > CHANGE


def test_one_block_works_in_every_gradient_mode_and_type() -> None:
    model = make_exact()
    ids, full = model.tokenize(QUESTIONS[0])["input_ids"], in_prompt(model, QUESTIONS[0], CASTLE)[0]
    with torch.no_grad():
        want = model.decoder(full).logits[:, -5:]
    with model.injected(CASTLE, ids):
        for mode in (torch.inference_mode(), torch.no_grad(), torch.enable_grad(), torch.no_grad()):
            with mode:
                assert off(model.decoder(ids).logits[:, -5:], want) <= OFF
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert off(model.decoder(ids).logits[:, -5:].float(), want) <= 0.1
        with torch.no_grad():
            assert off(model.decoder(ids).logits[:, -5:], want) <= OFF


def test_a_changed_attention_implementation_still_reads_k() -> None:
    model = make_exact()
    for attention in ("eager", "sdpa"):
        model.decoder.set_attn_implementation(attention)
        want = prompted(model, QUESTIONS[0], CASTLE)
        assert model.decoder.config._attn_implementation == attention
        assert off(ours(model, QUESTIONS[0], CASTLE), want) <= OFF
        assert model.decoder.config._attn_implementation == f"diekae_{attention}"


def test_a_wrapped_decoder_is_saved_and_copied_unchanged(tmp_path: Path) -> None:
    model = make_exact()
    want = prompted(model, QUESTIONS[0], CASTLE)
    model.decoder.save_pretrained(tmp_path)
    assert "diekae" not in (tmp_path / "config.json").read_text()
    for decoder in (type(model.decoder).from_pretrained(tmp_path), copy.deepcopy(model.decoder)):
        again = make_exact(decoder)
        assert off(prompted(again, QUESTIONS[0], CASTLE), want) <= OFF
        assert off(ours(again, QUESTIONS[0], CASTLE), want) <= OFF


@pytest.mark.real
@torch.no_grad()
def test_smollm2_answers_as_with_the_document_in_the_prompt(smollm2) -> None:
    model = DiekaeModel.exact(*smollm2)
    text = "The Ondrel Bridge crosses the river Sava at Marnholm. The engineer Tilda Roe built it in 1907."
    question = "Which river does the Ondrel Bridge cross?"
    ids, a = model.tokenize(question)["input_ids"], len(model.anchor)
    known = torch.tensor([model.need_prompter().knowledge(text)])
    full = torch.cat([ids[:, :a], known, ids[:, a:]], dim=1)
    want = model.decoder(input_ids=full).logits[:, a + known.shape[1] :]
    assert off(want, model.decoder(input_ids=ids).logits[:, a:]) > 1.0
    assert off(model(ids, knowledge=text).logits[:, a:], want) <= 1e-5 * float(want.abs().max())
    tokens, logits = write(model, ids, text)
    by_prompt, logits_by_prompt = write(model, full)
    assert torch.equal(tokens, by_prompt) and off(logits, logits_by_prompt) <= 1e-5 * float(want.abs().max())
    assert "Sava" in model.tokenizer.decode(tokens[0]) and "Sava" not in model.tokenizer.decode(write(model, ids)[0][0])


def test_the_documentation_lists_the_decoders_that_are_tested() -> None:
    kinds: dict[str, list[str]] = {}
    for name, (kind, _) in VARIANTS.items():
        kinds.setdefault(kind, []).extend(name.split(", ")[1:])
    table = "".join(f"| `{kind}` | {', '.join(kinds[kind])} |\n" for kind in sorted(kinds))
    page = (Path(__file__).parents[2] / "docs/concepts/exactness.md").read_text()
    assert f"|---|---|\n{table}\n" in page, f"the page's table must be:\n{table}"
    assert len(kinds) >= 20


# One path


@SOME
def test_measured_logits_are_bit_identical_to_served_ones(name: str) -> None:
    model = exact_model(name)
    draw = torch.Generator().manual_seed(0)
    known, x, y = (tuple(torch.randint(4, VOCABULARY, (n,), generator=draw).tolist()) for n in (40, 12, 1))
    prompt = Prompt(model.anchor, known, x, y)
    (prepared,) = model.prepare_prompts([prompt])
    ids = torch.tensor([[*model.anchor, *x]])
    with torch.no_grad():
        measured = target_logits(model, [prompt], "ours")
        # The head runs over one column each time: a product of another shape would round differently.
        forward = model(ids, knowledge=prepared, logits_to_keep=1).logits[:, -1]
        options: dict[str, Any] = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True}
        first = model.generate(ids, knowledge=prepared, output_scores=True, output_logits=True, **options)
        bare = model.decoder(input_ids=ids).logits[:, -1]
    assert torch.equal(measured, forward)
    assert torch.equal(first.logits[0], forward)
    assert torch.equal(first.scores[0], forward)
    assert off(forward, bare) > CHANGE
