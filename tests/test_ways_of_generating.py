"""The ways of generating that Transformers offers: each gives what it gives with K in the prompt, or is refused.

The first column of the table in ``docs/how-to/generate.md`` names what is tested here.
"""

import copy
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor, pipeline
from transformers.cache_utils import Cache, QuantizedLayer
from transformers.generation import (
    CompileConfig,
    GenerationConfig,
    MaxLengthCriteria,
    StoppingCriteriaList,
    TextStreamer,
    WatermarkingConfig,
)

from builders import DEPTH, make_model, make_tokenizer
from diekae import DiekaeModel
from diekae.edit import edit_model, load_edits
from readings import CASTLE, CHANGE, OFF, QUESTIONS, exact_model, in_prompt, make_exact, make_variant, off, right_padded

NEW = 12
"""Generated tokens; with the question they exceed the shortest windows."""
NAMES = ("llama", "gemma3, alternating", "mistral, window shorter than K")


class OnlyEven(LogitsProcessor):
    """Allows tokens of even numbers alone."""

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        return scores.masked_fill(torch.arange(scores.shape[1]) % 2 == 1, -torch.inf)


class PenaltyWithoutKnowledge(LogitsProcessor):
    """Transformers' repetition penalty over all columns but K's."""

    def __init__(self, penalty: float, start: int, stop: int) -> None:
        self.penalty, self.start, self.stop = RepetitionPenaltyLogitsProcessor(penalty), start, stop

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        return self.penalty(torch.cat([ids[:, : self.start], ids[:, self.stop :]], dim=1), scores)


class RoundedLayer(QuantizedLayer):
    """Transformers' layer of quantised keys and values, with 12 bits by plain products."""

    def _quantize(self, tensor: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        scale = tensor.abs().amax(-1, keepdim=True).clamp(min=1e-6) / 2047
        return (tensor / scale).round().to(torch.int16), scale

    def _dequantize(self, quantised: tuple[Tensor, Tensor]) -> Tensor:
        return quantised[0] * quantised[1]


Options = Callable[[DiekaeModel, Tensor], dict[str, Any]]
"""Makes the options of one call from the model and the tokens that it is called with."""

WAYS: dict[str, Options] = {
    "do_sample=False": lambda _model, _ids: {},
    "do_sample=True": lambda _model, _ids: {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.9},
    "num_return_sequences": lambda _model, _ids: {"do_sample": True, "num_return_sequences": 3},
    "num_beams": lambda _model, _ids: {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
    'cache_implementation="static"': lambda _model, _ids: {"cache_implementation": "static"},
    "cache": lambda model, _ids: {"cache": DynamicCache(config=model.decoder.config)},
    "use_cache=False": lambda _model, _ids: {"use_cache": False},
    "prefill_chunk_size": lambda _model, _ids: {"prefill_chunk_size": 3},
    "prompt_lookup_num_tokens": lambda _model, _ids: {"prompt_lookup_num_tokens": 3},
    "assistant_early_exit": lambda _model, _ids: {"assistant_early_exit": 2},
    "inputs_embeds": lambda model, ids: {"inputs_embeds": model.decoder.get_input_embeddings()(ids)},
    "logits_processor": lambda _model, _ids: {"logits_processor": LogitsProcessorList([OnlyEven()])},
    "prefix_allowed_tokens_fn": lambda _model, _ids: {"prefix_allowed_tokens_fn": lambda _row, _ids: range(5, 60)},
    "stopping_criteria": lambda _model, ids: {
        "stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(ids.shape[1] + 5)])
    },
    "watermarking_config": lambda _model, _ids: {"watermarking_config": WatermarkingConfig()},
    "custom_generate": lambda model, _ids: {"custom_generate": type(model.decoder)._sample},
    "streamer": lambda model, _ids: {"streamer": TextStreamer(model.tokenizer)},
}
"""Ways that take the same options with K in the prompt."""
OTHER_WAYS = {
    "repetition_penalty",
    "assistant_model",
    'cache_implementation="quantized"',
    'cache_implementation="offloaded"',
    "return_dict_in_generate",
    "output_hidden_states",
    "output_attentions",
    "guidance_scale",
    "torch.compile",
    'pipeline("text-generation", model.decoder)',
    "copy.deepcopy, pickle",
}
"""Ways with a test of their own."""
REFUSED = {
    "inputs_embeds alone",
    'cache_implementation="paged"',
    "generate_batch",
    "token_healing",
    "right padding",
    "assistant_model=model",
    'pipeline("text-generation", model)',
    "copy.deepcopy, pickle of an edited model",
    "penalty_alpha, dola_layers, num_beam_groups, force_words_ids",
}


def generate(decoder: Any, ids: Tensor, **options: Any) -> Any:
    """What ``NEW`` tokens are written, with the logits of each."""
    torch.manual_seed(0)
    given = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, **options}
    return decoder.generate(ids, **given, return_dict_in_generate=True, output_logits=True)


def written(output: Any, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens behind the prompt [rows, tokens], and their logits."""
    return output.sequences[:, prompt.shape[1] :], torch.stack(output.logits, dim=1)


def check_same(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor], allowed: float = OFF) -> None:
    assert torch.equal(got[0], want[0])
    assert off(got[1], want[1]) <= allowed


def prompts(model: DiekaeModel, question: str = QUESTIONS[0]) -> tuple[Tensor, Tensor]:
    """Tokens of x, and of K and x."""
    return model.tokenize(question)["input_ids"], in_prompt(model, question, CASTLE)[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", WAYS)
def test_each_way_gives_what_it_gives_with_k_in_the_prompt(way: str, name: str) -> None:
    model = exact_model(name)
    ids, full = prompts(model)
    want = written(generate(model.decoder, full, **WAYS[way](model, full)), full)
    got = generate(model, ids, knowledge=CASTLE, **WAYS[way](model, ids))
    check_same(written(got, ids), want)
    bare = generate(model.decoder, ids, **WAYS[way](model, ids))
    assert off(bare.logits[0], want[1][:, 0]) > CHANGE, "K must matter, or this shows nothing"


@pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
@pytest.mark.parametrize("way", [way for way in WAYS if "sample" not in way and "num" not in way[:10]])
def test_caches_and_drafts_do_not_change_what_a_trained_bank_writes(way: str, encoder: str) -> None:
    model = make_model(encoder)
    ids = model.tokenize(QUESTIONS[0])["input_ids"]
    options = WAYS[way](model, ids)
    kept = {name: value for name, value in options.items() if name in ("logits_processor", "watermarking_config")}
    kept |= {name: options[name] for name in ("prefix_allowed_tokens_fn", "stopping_criteria") if name in options}
    want = written(generate(model, ids, knowledge=CASTLE, use_cache=False, **kept), ids)
    check_same(written(generate(model, ids, knowledge=CASTLE, **options), ids), want)


@pytest.mark.parametrize("size", [1, 2, 3, 6, 50])
def test_padded_rows_may_be_read_in_chunks_of_any_size(size: int) -> None:
    model = exact_model("llama")
    inputs = model.tokenize(QUESTIONS)
    assert int((inputs["attention_mask"][1] == 0).sum()) > 3, "its first chunk may hold nothing but padding"
    options = {**inputs, "knowledge": [None, CASTLE, CASTLE], "max_new_tokens": NEW, "do_sample": False}
    whole, in_chunks = (model.generate(**options, **more) for more in ({}, {"prefill_chunk_size": size}))
    assert torch.equal(whole, in_chunks)


@pytest.mark.parametrize("drafts", ["another", "itself"])
@pytest.mark.parametrize("name", NAMES)
def test_drafts_of_another_decoder_change_nothing(name: str, drafts: str) -> None:
    model = exact_model(name)
    ids, full = prompts(model)
    assistant = model.decoder if drafts == "itself" else make_variant(name, seed=1)
    got = generate(model, ids, knowledge=CASTLE, assistant_model=assistant)
    check_same(written(got, ids), written(generate(model.decoder, full), full))


def test_penalties_see_what_is_said_and_not_k() -> None:
    model = exact_model("llama")
    ids, full = prompts(model)
    start = len(model.anchor)
    penalty = PenaltyWithoutKnowledge(1.3, start, start + full.shape[1] - ids.shape[1])
    want = written(generate(model.decoder, full, logits_processor=LogitsProcessorList([penalty])), full)
    got = written(generate(model, ids, knowledge=CASTLE, repetition_penalty=1.3), ids)
    check_same(got, want)
    assert not torch.equal(got[0], written(generate(model.decoder, full, repetition_penalty=1.3), full)[0])


def test_a_quantised_cache_rounds_x_and_leaves_k_as_it_is() -> None:
    model = exact_model("llama")
    ids, full = prompts(model)
    want = written(generate(model.decoder, full), full)
    cache = Cache(layers=[RoundedLayer(residual_length=4) for _ in range(DEPTH)])
    got = written(generate(model, ids, knowledge=CASTLE, cache=cache), ids)
    assert cache.get_seq_length() == ids.shape[1] + NEW - 1
    assert 0 < off(got[1], want[1]) <= 0.02, "rounded, and only a little"
    assert torch.equal(got[0], want[0])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="Transformers offloads caches from a GPU")
@pytest.mark.parametrize("cache", ["offloaded", "offloaded_static"])
def test_an_offloaded_cache_changes_nothing(cache: str) -> None:
    model = make_exact().cuda()
    ids, full = prompts(model)
    want = written(generate(model.decoder, full.cuda()), full)
    check_same(written(generate(model, ids, knowledge=CASTLE, cache_implementation=cache), ids), want, 1e-3)


def test_hidden_states_and_attention_weights_are_those_with_k_in_the_prompt() -> None:
    model = exact_model("llama", "eager")
    ids, full = prompts(model)
    options = {"output_hidden_states": True, "output_attentions": True, "output_scores": True}
    got, want = generate(model, ids, knowledge=CASTLE, **options), generate(model.decoder, full, **options)
    anchor, columns = len(model.anchor), ids.shape[1] - len(model.anchor)
    assert set(got) == set(want)
    for step in range(NEW):
        torch.testing.assert_close(got.scores[step], want.scores[step], atol=OFF, rtol=0)
        for ours, theirs in zip(got.hidden_states[step], want.hidden_states[step], strict=True):
            assert off(ours[:, -columns:], theirs[:, -columns:]) <= OFF
        for ours, theirs in zip(got.attentions[step], want.attentions[step], strict=True):
            own = theirs.shape[-1] - columns - step  # where x's own anchor stands, which gets no attention
            assert not ours[:, :, -columns:, own : own + anchor].any()
            rest = torch.cat([ours[..., :own], ours[..., own + anchor :]], dim=-1)
            assert off(rest[:, :, -columns:], theirs[:, :, -columns:]) <= OFF, "over anchor, K and x"


# torch.compile


def make_small(bank: str = "exact") -> DiekaeModel:
    """A model whose decoder has one layer, which is soon compiled."""
    decoder = make_variant("llama", num_hidden_layers=1)
    return make_exact(decoder) if bank == "exact" else make_model("reader", decoder=decoder)


@pytest.fixture
def compiling() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compile_in_place(model: DiekaeModel) -> None:
    model.decoder.compile(backend="eager")


def compile_forward(model: DiekaeModel) -> None:
    model.decoder.forward = torch.compile(model.decoder.forward, backend="eager")


def compile_attention(model: DiekaeModel) -> None:
    for layer in model.decoder.model.layers:
        layer.self_attn.compile(backend="eager")


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("compile_decoder", [compile_in_place, compile_forward, compile_attention])
@pytest.mark.parametrize("bank", ["exact", "reader"])
def test_a_compiled_decoder_reads_k_uncompiled(bank: str, compile_decoder: Callable[[DiekaeModel], None]) -> None:
    model = make_small(bank)
    ids, _ = prompts(model)
    prepared = model.prepare(CASTLE)
    with torch.no_grad():
        want, bare = model(ids, knowledge=prepared).logits, model.decoder(ids).logits
        compile_decoder(model)
        assert off(model.decoder(ids).logits, bare) <= OFF, "this compiles it without hooks"
        assert off(model(ids, knowledge=prepared).logits, want) <= OFF
        assert off(want, bare) > CHANGE
        assert off(model.decoder(ids).logits, bare) <= OFF
        again = make_exact(model.decoder) if bank == "exact" else make_model("reader", decoder=model.decoder)
        assert off(again(ids, knowledge=CASTLE).logits, want) <= OFF, "it can be tried and prepared for, too"


@pytest.mark.usefixtures("compiling")
def test_code_that_was_compiled_around_the_decoder_runs_uncompiled_in_a_block() -> None:
    model = make_small()
    ids, full = prompts(model)
    compiled = torch.compile(model.decoder, backend="eager")
    config = CompileConfig(backend="eager", mode=None)
    config._compile_all_devices = True
    static = {"cache_implementation": "static", "compile_config": config}
    with torch.no_grad():
        want, bare = model.decoder(full).logits[:, -1], compiled(ids).logits[:, -1]
        generate(model.decoder, ids, **static)
        for _ in range(2):
            with model.injected(CASTLE, ids):
                assert off(compiled(ids).logits[:, -1], want) <= OFF
                got = generate(model.decoder, ids, **static)
            check_same(written(got, ids), written(generate(model.decoder, full), full))
            assert off(compiled(ids).logits[:, -1], bare) <= OFF
        got = generate(model, ids, knowledge=CASTLE, **static, disable_compile=False)
        check_same(written(got, ids), written(generate(model.decoder, full), full))


@pytest.mark.usefixtures("compiling")
def test_code_that_calls_the_model_may_be_compiled_and_runs_uncompiled() -> None:
    model = make_small()
    ids, _ = prompts(model)
    with pytest.raises(TypeError, match="what torch.compile returned; pass the decoder itself: decoder._orig_mod"):
        DiekaeModel.exact(torch.compile(model.decoder, backend="eager"))
    prepared = model.prepare(CASTLE)

    @torch.compile(backend="eager")
    def generate_twice() -> list[Tensor]:
        return [model.generate(ids, knowledge=prepared, max_new_tokens=3) for _ in range(2)]

    with torch.no_grad():
        want = model(ids, knowledge=prepared).logits
        assert torch.equal(torch.compile(model, backend="eager")(ids, knowledge=prepared).logits, want)
        for output in generate_twice():
            assert torch.equal(output, model.generate(ids, knowledge=prepared, max_new_tokens=3))


@pytest.mark.usefixtures("compiling")
def test_code_runs_compiled_again_when_the_last_of_all_blocks_has_ended() -> None:
    model, other = make_small(), make_small("reader")
    ids, _ = prompts(model)

    @torch.compile(backend="eager")
    def is_compiled() -> bool:
        return torch.compiler.is_compiling()

    assert is_compiled()
    first, second = model.injected(CASTLE, ids), other.injected(CASTLE, ids)
    with pytest.raises(RuntimeError, match="an error in the block"), first:
        assert not is_compiled()
        with second:
            assert not is_compiled()
            first.__exit__(None, None, None)
            assert not is_compiled(), "the other block still needs its hooks"
        assert is_compiled()
        raise RuntimeError("an error in the block")
    assert is_compiled()


# Pipelines and copies


def test_a_pipeline_reads_k_inside_a_block() -> None:
    model = exact_model("llama")
    pipe = pipeline("text-generation", model=model.decoder, tokenizer=make_tokenizer())
    text = f"<s> {QUESTIONS[0]}"
    ids = torch.tensor([pipe.tokenizer(text)["input_ids"]])
    assert torch.equal(ids, prompts(model)[0])
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "return_tensors": True}
    with model.injected(CASTLE, ids):
        (got,) = pipe(text, **options)
    want = generate(model, ids, knowledge=CASTLE).sequences[0].tolist()
    assert got["generated_token_ids"] == want
    assert pipe(text, **options)[0]["generated_token_ids"] != want
    with pytest.raises(TypeError, match=r"Give the pipeline model.decoder, .*model.injected\(knowledge, input_ids\)"):
        pipeline("text-generation", model=model, tokenizer=model.tokenizer)


@pytest.mark.parametrize("bank", ["exact", "attention", "reader", "token"])
@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_a_model_of_its_own(bank: str, way: Callable[[DiekaeModel], DiekaeModel]) -> None:
    model = make_exact() if bank == "exact" else make_model(bank)
    inputs = model.tokenize(QUESTIONS[0])
    prepared = model.prepare(CASTLE)
    with torch.no_grad():
        want, bare = model(**inputs, knowledge=prepared).logits, model.decoder(**inputs).logits
        again = way(model)
        for parameter in [*model.decoder.parameters(), *model.bank.parameters()]:
            parameter.zero_()
        assert torch.equal(again(**inputs, knowledge=prepared).logits, want)
        assert torch.equal(again(**inputs, knowledge=CASTLE).logits, want)
        assert torch.equal(again.decoder(**inputs).logits, bare)
        assert off(want, bare) > CHANGE


def test_an_edited_model_is_not_copied_but_its_edits_can_be_given_to_a_copy(tmp_path: Path) -> None:
    model = make_exact()
    edit_model(model, [{"prompt": "the red house is", "subject": "red house", "target": "blue"}], folder=tmp_path)
    for way in (copy.deepcopy, copy.copy, pickle.dumps):
        with pytest.raises(ValueError, match=r"edited model cannot be copied or pickled.*load_edits\(copy, folder\)"):
            way(model)
    inputs = model.tokenize("the red house is")
    want, model.editor = model(**inputs).logits, None
    again = copy.deepcopy(model)
    assert off(again(**inputs).logits, want) > CHANGE
    load_edits(again, tmp_path)
    assert torch.equal(again(**inputs).logits, want)


# Refusals


def test_ways_that_would_lose_k_are_refused_by_name() -> None:
    model = exact_model("llama")
    ids, _ = prompts(model)
    padded = right_padded(model, QUESTIONS)
    refused: dict[str, dict[str, Any]] = {
        "padded on the right.*pad on the left": padded,
        r"'paged' \(continuous batching, generate_batch\)": {"input_ids": ids, "cache_implementation": "paged"},
        "token_healing=True is not supported": {"input_ids": ids, "token_healing": True},
        "assistant_model is of type DiekaeModel": {"input_ids": ids, "assistant_model": model},
        r"inputs_embeds has shape \(1, 3, 32\); expected one embedding for each of the \(1, 12\)": {
            "input_ids": ids,
            "inputs_embeds": torch.zeros(1, 3, 32),
        },
        "generate needs input_ids": {"inputs_embeds": torch.zeros(1, 3, 32)},
        "requires `trust_remote_code=True`": {"input_ids": ids, "penalty_alpha": 0.6, "top_k": 4},
    }
    for why, options in refused.items():
        with pytest.raises(ValueError, match=why):
            model.generate(**options, knowledge=CASTLE, max_new_tokens=2)
    settings = copy.deepcopy(model.decoder.generation_config)
    settings.cache_implementation = "paged"
    with pytest.raises(ValueError, match="'paged'"):
        model.generate(ids, knowledge=CASTLE, generation_config=settings)
    with torch.no_grad(), pytest.raises(ValueError, match="inputs_embeds has shape"):
        model(ids, knowledge=CASTLE, inputs_embeds=torch.zeros(1, 3, 32))
    with torch.no_grad():
        embeddings = model.decoder.get_input_embeddings()(ids)
        got = model(ids, knowledge=CASTLE, inputs_embeds=embeddings).logits
        assert torch.equal(got, model(ids, knowledge=CASTLE).logits)


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("listed", [False, True])
def test_without_knowledge_in_any_row_every_option_is_the_decoders_own(listed: bool, edited: bool) -> None:
    model = make_exact()
    decoder = model.decoder.requires_grad_(False)
    inputs, padded = model.tokenize(QUESTIONS), right_padded(model, QUESTIONS)
    one = inputs["input_ids"][:1]
    if edited:  # its gate stays shut for all questions
        edit_model(model, [{"prompt": "the silver ship is", "subject": "silver ship", "target": "blue"}])
    calls: list[dict[str, Any]] = [
        inputs,
        padded,
        {"input_ids": padded["input_ids"]},
        {**inputs, "do_sample": True, "top_k": 9},
        {**inputs, "guidance_scale": 1.5},
        {**inputs, "generation_config": GenerationConfig(pad_token_id=int(one[0, 3]))},
        {"input_ids": one, "assistant_model": make_variant("llama", seed=1)},
        {"input_ids": one, "inputs_embeds": decoder.get_input_embeddings()(one[:, :4])},
        {"input_ids": one, "cache": DynamicCache(config=decoder.config)},
    ]
    for number, call in enumerate(calls):
        given = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        torch.manual_seed(0)
        want = decoder.generate(**{**given, **copy.deepcopy(call)})
        torch.manual_seed(0)
        got = model.generate(**{**given, **call}, knowledge=[None] * len(call["input_ids"]) if listed else None)
        assert torch.equal(got.sequences, want.sequences), number
        assert all(map(torch.equal, got.logits, want.logits)), number
    embeddings = {"inputs_embeds": decoder.get_input_embeddings()(one), "max_new_tokens": 5}
    if listed or edited:
        with pytest.raises(ValueError, match="generate needs input_ids"):
            model.generate(**embeddings, knowledge=[None] if listed else None)
    else:
        assert torch.equal(model.generate(**embeddings), decoder.generate(**embeddings))


def test_continuous_batching_of_the_decoder_is_refused() -> None:
    model = exact_model("llama")
    ids, _ = prompts(model)
    with model.injected(CASTLE, ids), pytest.raises(ValueError, match="diekae_sdpa is not supported for continuous"):
        model.decoder.generate_batch(ids.tolist())


def test_the_table_of_the_documentation_lists_what_is_tested() -> None:
    page = (Path(__file__).parents[1] / "docs/how-to/generate.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (works|refused)\b", page, re.MULTILINE)
    listed = {verdict: {name.replace("`", "") for name, word in rows if word == verdict} for _, verdict in rows}
    assert listed == {"works": set(WAYS) | OTHER_WAYS, "refused": REFUSED}
