"""Hiding K in some layers: exact in every architecture, and refused where it cannot be."""

import math
import threading

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

from builders import ARCHITECTURES, DEPTH, VOCABULARY, hook_count, make_decoder
from diekae import DiekaeModel
from diekae.inject.hookpoints import find_blocks
from diekae.inject.visibility import check_masks, hiding

ANCHOR, KNOWN, LENGTH = 1, 20, 30  # longer than Gemma's sliding window of 16
EVERYWHERE = pytest.mark.parametrize("kind", ARCHITECTURES)
LAYERS = range(DEPTH)


def ids(*, knowledge: int = 0) -> Tensor:
    """Anchor, K and x; x is the same whatever K is."""
    draw = torch.Generator().manual_seed(5)
    row = torch.randint(4, VOCABULARY, (1, LENGTH), generator=draw)
    if knowledge:
        other = torch.Generator().manual_seed(knowledge)
        row[:, ANCHOR : ANCHOR + KNOWN] = torch.randint(4, VOCABULARY, (1, KNOWN), generator=other)
    return row


def columns_of_k() -> Tensor:
    hidden = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    hidden[ANCHOR + KNOWN :, ANCHOR : ANCHOR + KNOWN] = True
    return hidden


@torch.no_grad()
def logits_of(decoder: PreTrainedModel, row: Tensor) -> Tensor:
    return decoder(input_ids=row, use_cache=False).logits[0, ANCHOR + KNOWN :]


@EVERYWHERE
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_mask_that_hides_nothing_changes_nothing(kind: str, implementation: str) -> None:
    decoder = make_decoder(kind)
    if implementation == "sdpa" and not decoder._supports_sdpa:
        pytest.skip("the decoder has no sdpa attention")
    decoder.set_attn_implementation(implementation)
    want = logits_of(decoder, ids())
    with hiding(decoder, dict.fromkeys(LAYERS, torch.zeros(LENGTH, LENGTH, dtype=torch.bool))):
        assert hook_count(decoder) == DEPTH
        got = logits_of(decoder, ids())
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert hook_count(decoder) == 0


@EVERYWHERE
def test_only_visible_knowledge_changes_the_logits(kind: str) -> None:
    decoder = make_decoder(kind)
    found = {}
    for layers in ((), (0, 1, 3), tuple(LAYERS)):
        with hiding(decoder, dict.fromkeys(layers, columns_of_k())):
            found[layers] = [logits_of(decoder, ids(knowledge=k)) for k in (1, 2)]
    for layers, (one, two) in found.items():
        change = (one - two).abs().max()
        assert change < 1e-4 if len(layers) == DEPTH else change > 0.01, layers
    check_masks(decoder)


def attention_by_hand(decoder: PreTrainedModel, row: Tensor, visible: int) -> Tensor:
    """Llama, written out: K is visible to x in one layer only. Keys and values of K are those of an untouched run."""
    model = decoder.model
    states = model.embed_tokens(row)
    position = torch.arange(LENGTH)[None]
    cos, sin = model.rotary_emb(states, position)
    causal = torch.tril(torch.ones(LENGTH, LENGTH, dtype=torch.bool))
    for number, block in enumerate(model.layers):
        seen = causal if number == visible else causal & ~columns_of_k()
        normed, attention = block.input_layernorm(states), block.self_attn
        q, k, v = (
            p(normed).view(1, LENGTH, -1, attention.head_dim).transpose(1, 2)
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        k, v = (repeat_kv(t, attention.num_key_value_groups) for t in (k, v))
        scores = (q @ k.transpose(2, 3) / math.sqrt(attention.head_dim)).masked_fill(~seen, float("-inf"))
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, LENGTH, -1)
        states = states + attention.o_proj(mixed)
        states = states + block.mlp(block.post_attention_layernorm(states))
    return decoder.lm_head(model.norm(states))[0, ANCHOR + KNOWN :]


@pytest.mark.parametrize("visible", LAYERS)
def test_one_visible_layer_equals_attention_written_out(visible: int) -> None:
    decoder = make_decoder("llama")
    with hiding(decoder, dict.fromkeys(set(LAYERS) - {visible}, columns_of_k())):
        got = logits_of(decoder, ids())
    with torch.no_grad():
        want = attention_by_hand(decoder, ids(), visible)
        other = attention_by_hand(decoder, ids(), (visible + 1) % DEPTH)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert (want - other).abs().max() > 0.01


def test_each_row_of_a_batch_can_hide_its_own_columns() -> None:
    decoder = make_decoder("llama")
    both = torch.cat([ids(knowledge=1), ids(knowledge=2)])
    hidden = torch.stack([columns_of_k(), torch.zeros(LENGTH, LENGTH, dtype=torch.bool)])
    with torch.no_grad(), hiding(decoder, dict.fromkeys(LAYERS, hidden)):
        found = decoder(input_ids=both, use_cache=False).logits[:, ANCHOR + KNOWN :]
    with hiding(decoder, dict.fromkeys(LAYERS, columns_of_k())):
        first = logits_of(decoder, both[:1])
    torch.testing.assert_close(found[0], first, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], logits_of(decoder, both[1:]), atol=1e-4, rtol=1e-4)


def test_other_threads_see_everything_and_an_exception_leaves_no_hooks() -> None:
    decoder = make_decoder("llama")
    want, found = logits_of(decoder, ids()), []
    with pytest.raises(RuntimeError, match="stop"), hiding(decoder, dict.fromkeys(LAYERS, columns_of_k())):
        other = threading.Thread(target=lambda: found.append(logits_of(decoder, ids())))
        other.start()
        other.join()
        assert (logits_of(decoder, ids()) - want).abs().max() > 0.01
        raise RuntimeError("stop")
    assert torch.equal(found[0], want)
    assert hook_count(decoder) == 0


class WithoutMask(nn.Module):
    """A block that looks at no mask."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states: Tensor, position_embeddings: object = None, **_: object) -> Tensor:
        return self.block(hidden_states, position_embeddings=position_embeddings)


class Leaking(nn.Module):
    """A block that mixes tokens outside attention too."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **rest: object) -> Tensor:
        return self.block(hidden_states, attention_mask=attention_mask, **rest) + hidden_states.cumsum(1)


def test_decoders_whose_columns_cannot_be_hidden_are_refused() -> None:
    decoder = make_decoder("llama")
    with (
        pytest.raises(ValueError, match=r"layers \[4\] do not exist.*0 to 3"),
        hiding(decoder, dict.fromkeys((4,), columns_of_k())),
    ):
        pass
    blocks = find_blocks(decoder)
    kept = blocks[2]
    blocks[2] = Leaking(kept)
    with pytest.raises(ValueError, match="LlamaForCausalLM does not keep to the masks"):
        check_masks(decoder)
    blocks[2] = WithoutMask(kept)
    with pytest.raises(ValueError, match="WithoutMask takes no attention_mask"):
        check_masks(decoder)
    blocks[2] = kept
    decoder.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="'flash_attention_2' takes no mask .*eager"):
        check_masks(decoder)
    decoder.config._attn_implementation = "sdpa"
    with (
        pytest.raises(ValueError, match=r"is given an attention_mask of \(1, 1, 30, 30\), expected .* 29 rows"),
        hiding(decoder, dict.fromkeys(LAYERS, torch.zeros(29, 30, dtype=torch.bool))),
        torch.no_grad(),
    ):
        decoder(input_ids=ids(), attention_mask=torch.tensor([[0] + [1] * 29]), use_cache=False)
    assert hook_count(decoder) == 0


def test_layers_are_hidden_of_a_decoder_that_a_bank_uses() -> None:
    decoder = make_decoder()
    DiekaeModel.exact(decoder)
    check_masks(decoder)
