"""The encoders alone: against Transformers' own Llama and against single encoders; padded, in parts, untrained."""

import dataclasses

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from builders import SMALL
from diekae.encoders import Encoder, KnowledgeBatch, Token, encoder_class

COUNT, ROWS, KNOWN, ASKED, WIDE, WIDTH = 3, 2, 7, 5, 24, 32
"""Encoders, rows, tokens of K, positions of x, embedding width, decoder width."""

BOTH = pytest.mark.parametrize("name", ["reader", "token"])
"""Encoders that compute the difference themselves; ``attention`` has its own file."""


def make_encoder(name: str, count: int = COUNT, effect: float = 0.5, seed: int = 0, **options) -> Encoder:
    kind = encoder_class(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = kind(count, WIDE, WIDTH, kind.make_options({**SMALL[name], **options}))
        with torch.no_grad():
            for parameter in encoder.parameters():  # gains too: otherwise all of them are one
                parameter.add_(torch.randn_like(parameter) * 0.2)
            encoder.up.weight.normal_(0.0, effect) if effect else encoder.up.weight.zero_()
    return encoder


def given(encoder: Encoder, length: int, seed: int, count: int = COUNT) -> Tensor:
    """Embeddings [1, B, length, V] or states [N, B, length, W], as the encoder reads them."""
    draw = torch.Generator().manual_seed(seed)
    shape = (1, ROWS, length, WIDE) if encoder.reads == "embeddings" else (count, ROWS, length, WIDTH)
    return torch.randn(shape, generator=draw)


def real(length: int) -> Tensor:
    return torch.ones(ROWS, length, dtype=torch.bool)


def differences(encoder: Encoder, knowledge: Tensor, x: Tensor) -> Tensor:
    prepared = encoder.prepare(knowledge, real(knowledge.shape[2]))
    return encoder(prepared, x, real(x.shape[2])).difference


def one_of(encoder: Encoder, name: str, number: int) -> Encoder:
    """A bank of a single encoder with the weights of number ``number``."""
    alone = make_encoder(name, count=1, **dataclasses.asdict(encoder.sizes))
    alone.load_state_dict({key: tensor[number : number + 1] for key, tensor in encoder.state_dict().items()})
    return alone


def as_llama(token: Token, number: int) -> LlamaModel:
    """Encoder ``number`` as Transformers would build it: an implementation that shares nothing with ours."""
    sizes = token.sizes
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp_width,
        num_hidden_layers=sizes.blocks,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
        attn_implementation="eager",
    )
    llama = LlamaModel(config).eval()
    names = {
        "attention_norm": "input_layernorm",
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "output": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }
    with torch.no_grad():
        for ours, theirs in zip(token.blocks, llama.layers, strict=True):
            for mine, name in names.items():
                theirs.get_submodule(name).weight.copy_(ours.get_submodule(mine).weight[number])
        llama.norm.weight.copy_(token.norm.weight[number])
    return llama


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"blocks": 4, "heads": 4}, {"rope_theta": 500.0, "blocks": 1}])
def test_the_token_bank_equals_a_loop_over_transformers_llamas(options: dict[str, float]) -> None:
    token = make_encoder("token", **options)
    knowledge, x = given(token, KNOWN, 1), given(token, ASKED, 2)
    got = differences(token, knowledge, x)
    read = torch.cat([knowledge, x], dim=2)[0]
    for number in range(COUNT):
        hidden = as_llama(token, number)(inputs_embeds=read @ token.down.weight[number].T).last_hidden_state
        want = hidden[:, KNOWN:] @ token.up.weight[number].T
        assert want.abs().max() > 0.5
        torch.testing.assert_close(got[number], want, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_reader_equals_a_loop_over_its_formula() -> None:
    """One row and one encoder at a time, in plain linear algebra."""
    reader = make_encoder("reader")
    knowledge, x = given(reader, KNOWN, 1), given(reader, ASKED, 2)
    got = differences(reader, knowledge, x)
    heads, size = reader.sizes.heads, reader.sizes.width // reader.sizes.heads

    def norm(vectors: Tensor, gain: Tensor) -> Tensor:
        return vectors / (vectors.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * gain

    for n in range(COUNT):
        w = {name: tensor[n] for name, tensor in reader.state_dict().items()}
        for row in range(ROWS):
            k = norm(knowledge[n, row], w["knowledge_norm.weight"])
            q = norm(x[n, row], w["input_norm.weight"])
            keys = torch.cat([w["null_key"][None], k @ w["key.weight"].T])
            values = torch.cat([torch.zeros(1, reader.sizes.width), k @ w["value.weight"].T])
            queries, parts = q @ w["query.weight"].T, []
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                weights = (queries[:, part] @ keys[:, part].T / size**0.5).softmax(-1)
                parts.append(weights @ values[:, part])
            answer = torch.cat(parts, -1)
            inner = norm(torch.cat([answer, q @ w["skip.weight"].T], -1), w["mlp_norm.weight"])
            gate, up = inner @ w["gate.weight"].T, inner @ w["inner.weight"].T
            thought = (gate * gate.sigmoid() * up) @ w["outer.weight"].T
            want = torch.cat([answer, thought], -1) @ w["up.weight"].T
            assert want.abs().max() > 0.1
            torch.testing.assert_close(got[n, row], want, atol=1e-4, rtol=1e-4)


@BOTH
@torch.no_grad()
def test_stacked_encoders_equal_single_encoders(name: str) -> None:
    encoder = make_encoder(name)
    knowledge, x = given(encoder, KNOWN, 1), given(encoder, ASKED, 2)
    got = differences(encoder, knowledge, x)
    assert got.shape == (COUNT, ROWS, ASKED, WIDTH)
    for number in range(COUNT):
        mine = (lambda t, n=number: t) if encoder.reads == "embeddings" else (lambda t, n=number: t[n : n + 1])
        want = differences(one_of(encoder, name, number), mine(knowledge), mine(x))[0]
        assert want.abs().max() > 0.1
        torch.testing.assert_close(got[number], want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_readers_run_one_at_a_time_equal_readers_run_together() -> None:
    reader = make_encoder("reader")
    knowledge, x = given(reader, KNOWN, 1), given(reader, ASKED, 2)
    prepared = reader.prepare(knowledge, real(KNOWN))
    want = reader(prepared, x, real(ASKED)).difference
    for number in range(COUNT):
        which = slice(number, number + 1)
        got = reader(prepared, x[which], real(ASKED), which).difference
        torch.testing.assert_close(got, want[which], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_reading_knowledge_then_x_equals_one_pass_over_both() -> None:
    token = make_encoder("token")
    knowledge, x = given(token, KNOWN, 1), given(token, ASKED, 2)
    empty = KnowledgeBatch(
        {name: tensor[:, :, :0] for name, tensor in token.prepare(knowledge, real(KNOWN)).tensors.items()},
        real(0),
        torch.zeros(ROWS, dtype=torch.long),
    )
    once = token(empty, torch.cat([knowledge, x], dim=2), real(KNOWN + ASKED))
    prepared = token.prepare(knowledge, real(KNOWN))
    then = token(prepared, x, real(ASKED))
    assert once.difference.abs().max() > 0.1
    torch.testing.assert_close(then.difference, once.difference[:, :, KNOWN:], atol=1e-5, rtol=1e-5)
    assert then.x_cache is not None and once.x_cache is not None
    for name, tensor in then.x_cache.tensors.items():
        torch.testing.assert_close(tensor, once.x_cache.tensors[name][:, :, KNOWN:], atol=1e-5, rtol=1e-5)
    assert (then.x_cache.token_count.tolist(), once.x_cache.token_count.tolist()) == (
        [ASKED] * ROWS,
        [KNOWN + ASKED] * ROWS,
    )


@torch.no_grad()
def test_x_read_in_parts_equals_x_read_whole() -> None:
    encoder = make_encoder("token")
    knowledge, x = given(encoder, KNOWN, 1), given(encoder, ASKED, 2)
    prepared, seen, parts = encoder.prepare(knowledge, real(KNOWN)), None, []
    for start in range(0, ASKED, 2):
        part = x[:, :, start : start + 2]
        encoded = encoder(prepared, part, real(part.shape[2]), slice(None), seen)
        seen, parts = encoded.x_cache, [*parts, encoded.difference]
    whole = encoder(prepared, x, real(ASKED))
    assert whole.difference.abs().max() > 0.1
    torch.testing.assert_close(torch.cat(parts, dim=2), whole.difference, atol=1e-5, rtol=1e-5)
    assert seen is not None and seen.token_count.tolist() == [ASKED] * ROWS


@BOTH
@torch.no_grad()
def test_knowledge_read_in_chunks_equals_knowledge_read_whole(name: str) -> None:
    encoder = make_encoder(name)
    knowledge, x = given(encoder, KNOWN, 1), given(encoder, ASKED, 2)
    prepared = None
    for start in range(0, KNOWN, 3):
        chunk = knowledge[:, :, start : start + 3]
        prepared = encoder.prepare(chunk, real(chunk.shape[2]), prepared)
    got = encoder(prepared, x, real(ASKED)).difference
    torch.testing.assert_close(got, differences(encoder, knowledge, x), atol=1e-5, rtol=1e-5)


@BOTH
@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_never_read(name: str, side: str) -> None:
    encoder = make_encoder(name)
    knowledge, x = given(encoder, KNOWN, 1), given(encoder, ASKED, 2)
    want = differences(encoder, knowledge, x)

    def pad(tensor: Tensor, columns: int) -> tuple[Tensor, Tensor, slice]:
        noise = 100 * torch.randn(*tensor.shape[:2], columns, tensor.shape[3])
        parts = [noise, tensor] if side == "left" else [tensor, noise]
        mask = torch.zeros(ROWS, tensor.shape[2] + columns, dtype=torch.bool)
        kept = slice(columns, None) if side == "left" else slice(tensor.shape[2])
        mask[:, kept] = True
        return torch.cat(parts, dim=2), mask, kept

    k, k_mask, _ = pad(knowledge, 4)
    padded_x, x_mask, kept = pad(x, 3)
    got = encoder(encoder.prepare(k, k_mask), padded_x, x_mask).difference
    assert got.isfinite().all()
    torch.testing.assert_close(got[:, :, kept], want, atol=1e-5, rtol=1e-5)
    unmasked = encoder(encoder.prepare(k, torch.ones_like(k_mask)), x, real(ASKED)).difference
    assert (unmasked - want).abs().max() > 0.01, "the padding must matter when it is read"


@BOTH
@torch.no_grad()
def test_differences_of_a_row_without_knowledge_are_finite(name: str) -> None:
    encoder = make_encoder(name)
    mask = real(KNOWN)
    mask[0] = False
    prepared = encoder.prepare(given(encoder, KNOWN, 1), mask)
    assert encoder(prepared, given(encoder, ASKED, 2), real(ASKED)).difference.isfinite().all()


@BOTH
@torch.no_grad()
def test_an_untrained_bank_changes_nothing(name: str) -> None:
    kind = encoder_class(name)
    encoder = kind(COUNT, WIDE, WIDTH, kind.make_options(SMALL[name]))
    got = differences(encoder, given(encoder, KNOWN, 1), given(encoder, ASKED, 2))
    assert got.count_nonzero() == 0


@torch.no_grad()
def test_the_papers_start_changes_x() -> None:
    token = Token(COUNT, WIDE, WIDTH, Token.make_options({**SMALL["token"], "identity_start": False}))
    assert differences(token, given(token, KNOWN, 1), given(token, ASKED, 2)).abs().mean() > 0.1


@BOTH
def test_an_encoder_gets_no_gradient_from_other_encoders_targets(name: str) -> None:
    encoder = make_encoder(name)
    knowledge, x = given(encoder, KNOWN, 1), given(encoder, ASKED, 2)
    targets = torch.randn(COUNT, ROWS, ASKED, WIDTH, generator=torch.Generator().manual_seed(3))

    def gradients(targets: Tensor) -> dict[str, Tensor]:
        encoder.zero_grad()
        (differences(encoder, knowledge, x) - targets).square().mean().backward()
        return {key: parameter.grad.clone() for key, parameter in encoder.named_parameters()}

    before = gradients(targets)
    other = targets.clone()
    other[1] = 5 - other[1]
    after = gradients(other)
    assert before.keys() == dict(encoder.named_parameters()).keys()
    for key in before:
        assert all(before[key][number].abs().max() > 0 for number in range(COUNT)), f"{key} learns nothing"
        for number in (0, 2):
            torch.testing.assert_close(after[key][number], before[key][number], atol=0, rtol=0)
        assert not torch.equal(after[key][1], before[key][1])
