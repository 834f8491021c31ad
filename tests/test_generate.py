"""Generation with knowledge: the decoder's own `generate`, with a cache, beams, samples, streams and threads."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TextIteratorStreamer

import builders
from builders import ARCHITECTURES, hook_count, make_decoder, make_model
from diekae import DiekaeModel, PreparedKnowledge

CASTLE = "the castle was built by king four in the north and two towers are red"
RIVER = "a river has seven dogs"
QUESTIONS = ["who built the castle", "where are the dogs from", "what opened in the light of day"]
NEW = 10

BOTH = pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
SITES = pytest.mark.parametrize(("encoder", "site"), builders.SITES)
SCOPES = pytest.mark.parametrize("scope", ["all", "prompt"])


def write(model: DiekaeModel, inputs: dict[str, Tensor], knowledge=None, **kwargs) -> Tensor:
    """Exactly ``NEW`` new tokens a row, greedy unless told otherwise."""
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, **kwargs}
    return model.generate(**inputs, knowledge=knowledge, **options)


@torch.no_grad()
def write_by_hand(model: DiekaeModel, prompt: Tensor, knowledge: str | None, scope: str) -> Tensor:
    """The greedy continuation of one row, recomputed from the start for every token, without any cache."""
    ids, length = prompt, prompt.shape[1]
    for _ in range(NEW):
        mask = torch.zeros_like(ids, dtype=torch.bool)
        mask[:, len(model.anchor) : length if scope == "prompt" else None] = True
        logits = model(ids, knowledge=knowledge, injection_mask=mask, use_cache=False).logits[:, -1]
        logits[:, model.decoder.generation_config.eos_token_id] = -torch.inf  # as min_new_tokens does
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids


def check_greedy(model: DiekaeModel, scope: str) -> None:
    inputs = model.tokenize(QUESTIONS[0])
    want = write_by_hand(model, inputs["input_ids"], CASTLE, scope)
    assert not torch.equal(want, write(model, inputs)), "knowledge must change what is written"
    assert torch.equal(write(model, inputs, CASTLE), want)
    assert torch.equal(write(model, inputs, CASTLE, use_cache=False), want)
    assert hook_count(model.decoder) == 0


@SITES
@SCOPES
def test_greedy_generation_equals_a_loop_over_forward(encoder: str, scope: str, site: str) -> None:
    check_greedy(make_model(encoder, scope=scope, site=site), scope)


@pytest.mark.parametrize(("encoder", "kind"), builders.of_encoders(*ARCHITECTURES))
def test_greedy_generation_in_every_architecture(encoder: str, kind: str) -> None:
    check_greedy(make_model(encoder, scope="all", decoder=make_decoder(kind)), "all")


@BOTH
def test_the_two_scopes_generate_different_texts(encoder: str) -> None:
    written = []
    for scope in ("all", "prompt"):
        model = make_model(encoder, scope=scope)
        written.append(write(model, model.tokenize(QUESTIONS[0]), CASTLE))
    assert not torch.equal(*written)


@BOTH
@SCOPES
def test_without_knowledge_generation_is_the_decoders_own(encoder: str, scope: str) -> None:
    model = make_model(encoder, scope=scope)
    inputs = model.tokenize(QUESTIONS)
    want = model.decoder.generate(**inputs, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    assert torch.equal(write(model, inputs), want)
    mixed = write(model, inputs, [CASTLE, None, RIVER])
    assert torch.equal(mixed[1], want[1])
    assert not torch.equal(mixed[0], want[0]) and not torch.equal(mixed[2], want[2])


@BOTH
@SCOPES
def test_beams_follow_their_cache(encoder: str, scope: str) -> None:
    model = make_model(encoder, scope=scope)
    inputs = model.tokenize(QUESTIONS)
    knowledge = [CASTLE, None, RIVER]
    options = {"num_beams": 3, "num_return_sequences": 2, "return_dict_in_generate": True, "output_scores": True}
    cached = write(model, inputs, knowledge, **options, use_cache=True)
    plain = write(model, inputs, knowledge, **options, use_cache=False)
    assert (cached.beam_indices[cached.beam_indices >= 0] % 3).unique().numel() > 1, "beams must cross"
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(cached.sequences_scores, plain.sequences_scores, atol=1e-4, rtol=1e-4)
    assert not torch.equal(cached.sequences, write(model, inputs, num_beams=3, num_return_sequences=2))


@BOTH
@SCOPES
def test_samples_repeat_with_their_seed(encoder: str, scope: str) -> None:
    model = make_model(encoder, scope=scope)
    inputs = model.tokenize(QUESTIONS)

    def sample(seed: int, **kwargs) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return write(model, inputs, [CASTLE, RIVER, None], do_sample=True, num_return_sequences=2, **kwargs)

    first = sample(3)
    assert first.shape[0] == 6
    assert torch.equal(sample(3), first)
    assert torch.equal(sample(3, use_cache=False), first)
    assert not torch.equal(sample(4), first)


@BOTH
@SCOPES
def test_a_padded_batch_generates_what_its_rows_generate_alone(encoder: str, scope: str) -> None:
    model = make_model(encoder, scope=scope)
    knowledge = [CASTLE, PreparedKnowledge.join([model.prepare(RIVER), model.prepare(CASTLE)]), None]
    together = write(model, model.tokenize(QUESTIONS), knowledge)
    assert len({len(model.prompter.input(question)) for question in QUESTIONS}) > 1
    for row, question in enumerate(QUESTIONS):
        alone = write(model, model.tokenize(question), [knowledge[row]])
        assert torch.equal(together[row, -NEW:], alone[0, -NEW:])
        bare = write(model, model.tokenize(question))
        assert torch.equal(alone, bare) is (knowledge[row] is None)


@BOTH
def test_prepared_knowledge_generates_the_same_text(encoder: str) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS)
    want = write(model, inputs, CASTLE)
    prepared = model.prepare(CASTLE)
    for _ in range(2):  # generation must not write into the memory
        assert torch.equal(write(model, inputs, prepared), want)
    assert not torch.equal(want, write(model, inputs))


@BOTH
@SCOPES
def test_generation_continues_from_a_returned_cache(encoder: str, scope: str) -> None:
    model = make_model(encoder, scope=scope)
    inputs = model.tokenize(QUESTIONS[0])
    want = write(model, inputs, CASTLE)
    ended = write(model, inputs, CASTLE, max_new_tokens=4, min_new_tokens=4, return_dict_in_generate=True)
    length = inputs["input_ids"].shape[1]
    mask = torch.zeros_like(ended.sequences, dtype=torch.bool)
    mask[:, len(model.anchor) : None if scope == "all" else length] = True
    rest = NEW - 4
    with model.injected(CASTLE, ended.sequences, injection_mask=mask):
        got = model.decoder.generate(
            input_ids=ended.sequences,
            cache=ended.cache,
            max_new_tokens=rest,
            min_new_tokens=rest,
            do_sample=False,
        )
    assert torch.equal(got, want)
    assert not torch.equal(want, write(model, inputs))


@BOTH
def test_text_can_be_streamed(encoder: str) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS[0])
    want = write(model, inputs, CASTLE)[0, inputs["input_ids"].shape[1] :]
    streamer = TextIteratorStreamer(model.tokenizer, skip_prompt=True, timeout=60)
    thread = threading.Thread(target=write, args=(model, inputs, CASTLE), kwargs={"streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert len(pieces) > 2
    assert "".join(pieces).split() == model.tokenizer.decode(want).split()


@BOTH
def test_threads_with_different_knowledge_do_not_affect_each_other(encoder: str) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS[0])
    tasks = [model.prepare(CASTLE), model.prepare(RIVER), None]
    want = [write(model, inputs, knowledge) for knowledge in tasks]
    assert all(not torch.equal(want[a], want[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    got: list[list[Tensor]] = [[] for _ in tasks]
    errors: list[BaseException] = []
    start = threading.Barrier(len(tasks))

    def work(number: int) -> None:
        try:
            start.wait()
            for _ in range(6):
                got[number].append(write(model, inputs, tasks[number]))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    for number, results in enumerate(got):
        assert len(results) == 6
        assert all(torch.equal(result, want[number]) for result in results)
    assert hook_count(model.decoder) == 0


@BOTH
def test_hooks_do_nothing_in_another_thread_even_half_registered(encoder: str) -> None:
    """Torch keeps a hook and its `with_kwargs` flag in two dicts: a second thread can see the one without the other."""
    model = make_model(encoder, site="attention")
    inputs = model.tokenize(QUESTIONS[0])
    errors: list[BaseException] = []

    begun = threading.Event()

    def meet() -> None:
        begun.wait(60)
        called = 0
        for module in model.decoder.modules():
            try:
                for hook in module._forward_pre_hooks.values():
                    assert hook(module, ()) is None
                    called += 1
                for hook in module._forward_hooks.values():
                    assert hook(module, (), None) is None
                    called += 1
            except BaseException as error:
                errors.append(error)
        assert called or errors

    thread = threading.Thread(target=meet)
    thread.start()  # before the block: one that is started inside must say what it knows
    with model.injected(CASTLE, inputs["input_ids"]):
        assert hook_count(model.decoder) > 0
        begun.set()
        thread.join()
    assert not errors, errors


@BOTH
def test_an_error_in_generation_leaves_no_hook(encoder: str) -> None:
    model = make_model(encoder)
    inputs = model.tokenize(QUESTIONS[0])
    want = write(model, inputs, CASTLE)

    def fail(*_args) -> bool:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write(model, inputs, CASTLE, stopping_criteria=[fail])
    assert hook_count(model.decoder) == 0
    assert torch.equal(write(model, inputs, CASTLE), want)


def test_the_head_reads_a_copy_where_all_rows_have_knowledge() -> None:
    """A row without knowledge keeps the decoder's own product of a slice, bit for bit."""
    model, strides = make_model(), []
    inputs = model.tokenize(QUESTIONS[:2])
    head: Any = model.decoder.get_output_embeddings()
    head.register_forward_hook(lambda _head, args, _logits: strides.append(args[0].stride()[0]))
    castle, width = model.prepare(CASTLE), model.decoder.config.hidden_size
    for rows in ([castle, castle], [castle, None]):
        model.generate(**inputs, knowledge=rows, max_new_tokens=1)
    assert strides[0] == width < strides[1]
