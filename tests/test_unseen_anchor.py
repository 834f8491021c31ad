"""Where nothing sees x's own anchor, or what is seen of it is kept beside K, `generate` does not read it.

Else it reads all of x. Nothing is kept between calls, whatever was done before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import VOCABULARY, make_decoder, make_model, make_tokenizer
from diekae import DiekaeModel, PreparedKnowledge
from diekae.data import Example
from diekae.evaluation.evaluate import timed_passes
from diekae.inject.hooks import apply_hook
from diekae.run.score import target_logits
from readings import CASTLE, CHANGE, OFF, QUESTIONS, RIVER, VARIANTS, make_exact, make_variant, off

QUESTION, NEW = QUESTIONS[0], 12
"""Generated tokens; with the question they exceed the shortest windows."""


def chat_model(kind: str = "llama", **options: Any) -> DiekaeModel:
    """A model whose anchor has several tokens."""
    model = DiekaeModel.exact(make_decoder(kind), make_tokenizer(chat=True), **options)
    assert model.config.format == "chat" and len(model.anchor) > 1
    return model


@contextmanager
def recorded_columns(decoder: Any) -> Iterator[list[int]]:
    """The columns of each forward inside the block; without a hook, because where there are any, more is read."""
    read: list[int] = []
    embeddings = decoder.get_input_embeddings()
    embed = embeddings.forward

    def forward(ids: Tensor) -> Tensor:
        read.append(ids.shape[1])
        return embed(ids)

    embeddings.forward = forward
    try:
        yield read
    finally:
        del embeddings.forward


def columns_read(model: Any, inputs: dict, new: int = 3, **options: Any) -> tuple[list[int], Tensor]:
    """The columns of each forward of the decoder in a generation, and the logits of all tokens [tokens, rows, …]."""
    logits: list[Tensor] = []

    def keep(_ids: Tensor, scores: Tensor) -> Tensor:
        logits.append(scores.clone().clamp(min=-1e4))  # end tokens are at -inf
        return scores

    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "logits_processor": [keep], **options}
    with recorded_columns(getattr(model, "decoder", model)) as read:
        model.generate(**inputs, **options)
    return read, torch.stack(logits)


def read_whole(model: DiekaeModel, inputs: dict, **options: Any) -> Tensor:
    """The same logits, with a harmless option in which all of x is read."""
    read, logits = columns_read(model, inputs, renormalize_logits=False, **options)
    assert inputs["input_ids"].shape[1] in read
    return logits


@pytest.mark.parametrize("length", [1, 4, 30], ids=lambda length: f"anchor of {length}")
@pytest.mark.parametrize("name", VARIANTS)
def test_the_anchor_is_not_read_and_k_is_read_as_in_the_prompt(name: str, length: int) -> None:
    """Windows of 20 columns are shorter than the longest of these anchors."""
    model = make_exact(make_variant(name))
    draw = torch.Generator().manual_seed(0)
    model.anchor = (1, *torch.randint(4, VOCABULARY, (29,), generator=draw).tolist())[:length]
    x = [[*model.anchor, 9, 23, 77, 12, 31], [*model.anchor, 40, 8, 99, 100, 5]]
    knowledge = [model.prepare(CASTLE), model.prepare(RIVER)]
    known = [model.need_prompter().knowledge(text) for text in (CASTLE, RIVER)]
    read, got = columns_read(model, {"input_ids": torch.tensor(x)}, NEW, knowledge=knowledge)
    assert read == [5] + [1] * (NEW - 1)
    for row in range(2):
        full = torch.tensor([[*model.anchor, *known[row], *x[row][length:]]])
        _, want = columns_read(model.decoder, {"input_ids": full}, NEW)
        assert off(got[:, row], want[:, 0]) <= OFF
    _, bare = columns_read(model.decoder, {"input_ids": torch.tensor(x)}, NEW)
    assert off(got[0], bare[0]) > CHANGE


Options = dict[str, Any]
FEWER: dict[str, Options] = {
    "fewer layers": {"layers": [1, 3]},
    "scope": {"scope": "prompt"},
}


@pytest.mark.parametrize("length", [1, 4, 30], ids=lambda length: f"anchor of {length}")
@pytest.mark.parametrize("name", VARIANTS)
def test_layers_without_knowledge_see_what_was_kept_of_the_anchor(name: str, length: int) -> None:
    decoder = make_variant(name)
    if 0 < (getattr(decoder.config, "sliding_window", None) or 0) <= length:
        pytest.skip("a window that is shorter than the anchor does not keep all of it")
    model = make_exact(decoder, layers=[1, 3])
    draw = torch.Generator().manual_seed(0)
    model.anchor = (1, *torch.randint(4, VOCABULARY, (29,), generator=draw).tolist())[:length]
    x = torch.tensor([[*model.anchor, 9, 23, 77, 12, 31], [*model.anchor, 40, 8, 99, 100, 5]])
    knowledge = [model.prepare(CASTLE), model.prepare([RIVER, CASTLE])]
    read, got = columns_read(model, {"input_ids": x}, NEW, knowledge=knowledge)
    assert read == [5] + [1] * (NEW - 1)
    assert off(got, read_whole(model, {"input_ids": x}, new=NEW, knowledge=knowledge)) <= OFF
    emptied = [replace(row, bare_anchor={n: t * 0 for n, t in row.bare_anchor.items()}) for row in knowledge]
    assert off(got, columns_read(model, {"input_ids": x}, NEW, knowledge=emptied)[1]) > OFF


def test_where_the_anchor_is_not_kept_or_is_another_it_is_read() -> None:
    model = make_exact(make_variant("llama"), layers=[1, 3])
    castle, x = model.prepare(CASTLE), torch.tensor([[1, 9, 23, 77]])
    assert len(model.anchor) == 1 and model.anchor[0] == 1
    older = replace(castle, bare_anchor={})
    assert columns_read(model, {"input_ids": x}, knowledge=older)[0][0] == 4
    assert columns_read(model, {"input_ids": x}, knowledge=castle)[0][0] == 3
    x[0, 0] = 5
    read, logits = columns_read(model, {"input_ids": x}, knowledge=castle)
    assert read[0] == 4
    assert torch.equal(logits, read_whole(model, {"input_ids": x}, knowledge=castle))


def test_the_kept_anchor_is_stored_and_shared_by_documents() -> None:
    model = chat_model(layers=[1, 3])
    castle, river = model.prepare_many([CASTLE, RIVER])
    assert castle.bare_anchor["keys"] is river.bare_anchor["keys"]
    assert castle.bare_anchor["keys"].shape[:2] == (2, len(model.anchor))
    inputs = model.tokenize(QUESTION)
    want = read_whole(model, inputs, knowledge=castle)
    for precision in ("exact", "int8"):
        loaded = PreparedKnowledge.from_bytes(castle.to_bytes(precision))
        assert loaded.nbytes == castle.nbytes > castle.take(range(0)).nbytes
        for name, tensor in castle.bare_anchor.items():
            assert torch.equal(loaded.bare_anchor[name], tensor)
    read, got = columns_read(model, inputs, knowledge=castle.take(range(len(castle))))
    assert inputs["input_ids"].shape[1] not in read and off(got, want) <= OFF


def test_a_chat_with_a_system_prompt_does_not_read_it() -> None:
    model = chat_model(layers=[1, 3])
    messages: Any = [{"role": "system", "content": "the old town"}, {"role": "user", "content": QUESTION}]
    header, rest = model.need_prompter().chat(messages)
    assert header != model.anchor and len(header) > 4
    with recorded_columns(model.decoder) as read:
        answer = model.chat(messages, knowledge=CASTLE, max_new_tokens=6)
    assert len(rest) in read and len(header) + len(rest) not in read
    assert answer == model.chat(messages, knowledge=CASTLE, max_new_tokens=6, renormalize_logits=False)


def test_a_steered_anchor_is_read() -> None:
    """What was kept of it was not steered."""
    model = chat_model(layers=[1, 3])
    inputs, castle = model.tokenize(QUESTION), model.prepare(CASTLE)
    _, plain = columns_read(model, inputs, knowledge=castle)
    with apply_hook(model.hookpoints, lambda _layer, stream, _output: torch.full_like(stream, 0.5)):
        read, steered = columns_read(model, inputs, knowledge=castle)
        assert torch.equal(steered, read_whole(model, inputs, knowledge=castle))
    assert read[0] == inputs["input_ids"].shape[1] and off(steered, plain) > OFF


@pytest.mark.parametrize("options", [FEWER["scope"]], ids=["scope"])
def test_an_anchor_that_is_seen_is_read(options: Options) -> None:
    model = chat_model(**options)
    inputs = model.tokenize(QUESTION)
    read, logits = columns_read(model, inputs, knowledge=CASTLE)
    assert read[-3] == inputs["input_ids"].shape[1]
    assert torch.equal(logits, read_whole(model, inputs, knowledge=CASTLE))


@pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
@pytest.mark.parametrize("anchor", ["shared", "own"])
def test_other_banks_read_what_their_anchors_need(encoder: str, anchor: str) -> None:
    model = make_model(encoder, anchor=anchor)
    inputs = model.tokenize(QUESTION)
    read, logits = columns_read(model, inputs, knowledge=CASTLE)
    unseen = (encoder, anchor) == ("attention", "shared")
    assert (inputs["input_ids"].shape[1] in read) is not unseen
    assert off(logits, read_whole(model, inputs, knowledge=CASTLE)) <= OFF


@pytest.mark.parametrize("layers", ["all", "every:2"])
@torch.no_grad()
def test_the_pass_that_evaluation_times_reads_what_generation_reads(layers: str) -> None:
    model = make_model("attention", layers=layers, format="chat", tokenizer=make_tokenizer(chat=True))
    prompts = [model.need_prompter().prompt(Example((CASTLE,), QUESTION, "in the tower"))]
    assert len(prompts[0].anchor) > 1
    passes = timed_passes(model, prompts[0])
    for timed, way in (("ours", "ours"), ("prompted_cached", "prompted"), ("bare", "bare")):
        with recorded_columns(model.decoder) as read:
            logits = passes[timed]()
        assert off(logits, target_logits(model, prompts, way)) <= OFF, timed
        # The last token of y predicts nothing.
        x = len(prompts[0].input) + len(prompts[0].target) - 1
        assert read == [x if timed != "bare" else len(prompts[0].anchor) + x]


def change_data(model: DiekaeModel) -> None:
    """As PEFT merges: torch does not count this change."""
    model.decoder.get_decoder().layers[0].mlp.down_proj.weight.data.mul_(-2)


def replace_weights(model: DiekaeModel) -> None:
    """Put new weights where the old ones lay."""
    linear = model.decoder.get_decoder().layers[0].mlp.down_proj
    for _ in range(4):
        values = linear.weight.detach() * -1.5
        del linear.weight
        linear.weight = torch.nn.Parameter(torch.empty(values.shape).copy_(values), requires_grad=False)
        del values


def generate_in_training(model: DiekaeModel) -> None:
    """Dropout is random."""
    model.decoder.train()
    columns_read(model, model.tokenize(QUESTION), knowledge=CASTLE)
    model.decoder.eval()


def generate_refused(model: DiekaeModel) -> None:
    other = make_exact(model.decoder)
    inputs = model.tokenize(QUESTION)
    with other.injected(CASTLE, inputs["input_ids"]), pytest.raises(ValueError, match="another `injected` block"):
        model.generate(**inputs, knowledge=CASTLE, max_new_tokens=2)


def generate_with_a_vector(model: DiekaeModel) -> None:
    with apply_hook(model.hookpoints, lambda _layer, stream, _output: torch.full_like(stream, 3.0)):
        columns_read(model, model.tokenize(QUESTION), knowledge=CASTLE)


def generate_adapted(model: DiekaeModel) -> None:
    peft = pytest.importorskip("peft")
    options = {"r": 2, "target_modules": ["down_proj"], "init_lora_weights": False}
    adapted = peft.get_peft_model(model.decoder, peft.LoraConfig(**options))
    columns_read(model, model.tokenize(QUESTION), knowledge=CASTLE)
    adapted.base_model.disable_adapter_layers()


CHANGES = [
    change_data,
    replace_weights,
    generate_in_training,
    generate_refused,
    generate_with_a_vector,
    generate_adapted,
]


@pytest.mark.parametrize("options", [{}, *FEWER.values()], ids=["exact", *FEWER])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_nothing_is_kept_of_earlier_calls(change: Callable[[DiekaeModel], None], options: Options) -> None:
    kind, rates = ("gpt_neox", {"hidden_dropout": 0.5}) if change is generate_in_training else ("llama", {})
    model = DiekaeModel.exact(make_decoder(kind, **rates), make_tokenizer(chat=True), **options)
    inputs = model.tokenize(QUESTION)
    columns_read(model, inputs, knowledge=CASTLE)
    change(model)
    _, got = columns_read(model, inputs, knowledge=CASTLE)
    assert off(got, read_whole(model, inputs, knowledge=CASTLE)) <= OFF


OTHER_WAYS = {
    "num_beams": {"num_beams": 2},
    "num_return_sequences": {"num_return_sequences": 2, "do_sample": True},
    "use_cache": {"use_cache": False},
    "cache_implementation": {"cache_implementation": "static"},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 2},
    "assistant_early_exit": {"assistant_early_exit": 2},
    "return_dict_in_generate": {"return_dict_in_generate": True},
}


@pytest.mark.parametrize("given", ["options", "settings"])
@pytest.mark.parametrize("way", OTHER_WAYS)
def test_other_ways_of_generating_read_all_of_x(way: str, given: str) -> None:
    model = chat_model()
    inputs = model.tokenize(QUESTION)
    options = OTHER_WAYS[way]
    if given == "settings":
        for name, value in options.items():
            setattr(model.decoder.generation_config, name, value)
        options = {"do_sample": True} if "do_sample" in options else {}
    read, _ = columns_read(model, inputs, knowledge=CASTLE, **options)
    assert inputs["input_ids"].shape[1] in read


def test_a_decoder_that_takes_no_cache_reads_all_of_x() -> None:
    model = chat_model()
    inputs = model.tokenize(QUESTION)
    _, want = columns_read(model, inputs, knowledge=CASTLE)
    model.decoder.activation_checkpointing_enable()
    _, got = columns_read(model, inputs, knowledge=CASTLE)
    assert off(got, want) <= OFF
    model.decoder.train()
    read, _ = columns_read(model, inputs, knowledge=CASTLE)
    assert inputs["input_ids"].shape[1] in read


def test_rows_without_knowledge_and_padded_rows_read_all_of_x() -> None:
    model = chat_model()
    inputs = model.tokenize([QUESTION, QUESTION])
    length, castle = inputs["input_ids"].shape[1], model.prepare(CASTLE)
    assert columns_read(model, inputs, knowledge=[castle, None])[0][0] == length
    assert columns_read(model, inputs, knowledge=None)[0][0] == length
    padded = model.tokenize([QUESTION, "where"])
    assert columns_read(model, padded, knowledge=[castle, castle])[0][0] == padded["input_ids"].shape[1]
