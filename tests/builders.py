"""Tiny random decoders, tokenizers, prompts and models, and measures of their logits, for several test files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from diekae import DiekaeConfig, DiekaeModel
from diekae.data.prompt import Prompt
from diekae.edit.adapter import AdapterOptions, EditAdapter
from diekae.edit.prompt_encoder import GateOptions, PromptEncoder
from diekae.edit.trained_parts import TrainedParts

# Matrix products this small are twenty times slower when threads share them.
torch.set_num_threads(1)

VOCABULARY = 128
WIDTH = 32
DEPTH = 4
WINDOW = 64

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "max_position_embeddings": WINDOW,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {"intermediate_size": 48, "num_key_value_heads": 2}
_GEMMA = {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "mistral": {**_GROUPED, "sliding_window": None},
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi3": _GROUPED,
    "gpt2": {},
    "gpt_neox": {"intermediate_size": 48},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": WIDTH},
    "falcon": {"new_decoder_architecture": False, "parallel_attn": True, "multi_query": True},
    "mixtral": {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
}
"""Sizes of the tiny decoders that differ from the common ones, by Transformers' model type."""

WORDS = (
    "a about and answer are at bank blue book bridge built by by: captain castle cat city cold crew day deep dog door "
    "east eight far fast field fire first five flag four from garden gate give gold green harbour has her high hill "
    "his house imagine in is island it king lake large last left light long made man map many moon mountain name new "
    "night nine north of old on one open opened painted question queen red river road sea second seven ship silver six "
    "small snow south stone sun tall ten that the there thing three to tower town tree two under wall was water were "
    "west what when where who wind with wood years"
).split()


def make_decoder(kind: str = "llama", *, seed: int = 0, gain: float = 3.0, **sizes: Any) -> PreTrainedModel:
    """A random decoder of width 32 and 4 layers, in fp32; its matrices times ``gain``, so that K affects x."""
    config = CONFIG_MAPPING[kind](**{**_COMMON, **ARCHITECTURES.get(kind, {}), **sizes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim > 1:
                parameter.mul_(gain)
    return decoder


def make_tokenizer(*, chat: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer with one id per word (0 pad, 1 bos, 2 eos, 3 unknown), for the tiny decoders' vocabulary."""
    vocabulary = {
        word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *dict.fromkeys(WORDS), "{", "}"])
    }
    assert len(vocabulary) <= VOCABULARY, f"{len(vocabulary)} words do not fit"
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    if chat:
        fast.chat_template = (
            "{{ bos_token }}{% for m in messages %}"
            "{{ ' a ' if m['role'] == 'user' else ' by ' }}{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
        )
    return fast


def make_encoder(folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny random encoder of sentences, a BERT, and its tokenizer into a folder."""
    config = BertConfig(**{**_COMMON, "intermediate_size": 48, "initializer_range": 0.5})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = WINDOW
    tokenizer.save_pretrained(folder)
    return folder


def make_prompts(rows: int = 3, *, seed: int = 0, anchor: Sequence[int] = (1,)) -> list[Prompt]:
    """Prompts of random ids, whose parts differ in length between rows."""
    draw = torch.Generator().manual_seed(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(4, VOCABULARY, (length,), generator=draw).tolist())

    return [Prompt(tuple(anchor), ids(6 + 3 * row), ids(5 + (2 * row) % 3), ids(2 + row % 2)) for row in range(rows)]


SMALL: dict[str, dict[str, Any]] = {
    "reader": {"width": 16, "heads": 2, "mlp_width": 24},
    "token": {"width": 16, "heads": 2, "blocks": 2, "mlp_width": 24},
    "attention": {"mlp_width": 10},
}
"""Sizes of tiny encoders."""


SITES = [(name, site) for name in ("reader", "token") for site in ("block", "attention", "mlp")]
SITES.append(("attention", "attention"))
"""Pairs of encoder and site. The encoder ``attention`` works at one site only."""


ABSOLUTE = ("gpt2", "opt", "falcon")
"""Architectures that the encoder ``attention`` does not support: learned positions, or their own attention."""


def of_encoders(*kinds: str) -> list[tuple[str, str]]:
    """All pairs of an encoder and one of these architectures that it supports."""
    return [(encoder, kind) for encoder in SMALL for kind in kinds if not (encoder == "attention" and kind in ABSOLUTE)]


def make_model(
    encoder: str = "reader",
    *,
    decoder: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    effect: float = 0.5,
    seed: int = 0,
    **options: Any,
) -> DiekaeModel:
    """A tiny model whose bank is *not* the identity: its up-projections are drawn from N(0, effect²)."""
    site = "attention" if encoder == "attention" else "block"
    config = DiekaeConfig(
        **{"encoder": encoder, "encoder_options": SMALL[encoder], "layers": "all", "site": site, **options}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DiekaeModel(decoder or make_decoder(), config, tokenizer or make_tokenizer()).eval()
        with torch.no_grad():
            model.bank.encoder.up.weight.normal_(0.0, effect)
    return model


@torch.no_grad()
def logits_of(model: DiekaeModel, inputs: dict[str, Tensor], knowledge: Any = None, **options: Any) -> Tensor:
    """Logits of x with knowledge injected, [rows, columns, vocabulary]."""
    return model(**inputs, knowledge=knowledge, **options).logits


@torch.no_grad()
def bare_logits(model: DiekaeModel, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    """Logits of the decoder alone."""
    return model.decoder(**inputs, **options).logits


def largest_change(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference of two tensors."""
    return float((a - b).abs().max())


def hook_count(module: torch.nn.Module) -> int:
    """Number of forward hooks and forward pre-hooks of a module and its submodules."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def write_pdf(path: Path, text: str) -> Path:
    """Write a PDF of one page (ISO 32000-1, 7.5): four objects, a table of their offsets, and a trailer."""
    content = f"BT /F1 12 Tf 50 200 Td ({text}) Tj ET" if text else ""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Contents 4 0 R"
        " /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        f"<< /Length {len(content)} >> stream\n{content}\nendstream",
    ]
    file, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(objects):
        offsets.append(len(file))
        file += f"{number + 1} 0 obj {body} endobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    end = f"xref\n0 5\n0000000000 65535 f \n{table}trailer << /Size 5 /Root 1 0 R >>\nstartxref\n{len(file)}\n%%EOF\n"
    path.write_text(file + end)
    return path


def make_trained_parts(model: DiekaeModel, spread: float = 0.0) -> TrainedParts:
    """A random gate that opens for nearly equal texts, and an adapter; with a spread it changes what was prepared."""
    options = GateOptions(layers=(1, 2), heads=2, head_width=8, mentioned=0.9, nearly=0.99)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = EditAdapter.for_model(model, AdapterOptions(rank=2, slots=1, copies=2))
        with torch.no_grad():
            for name, parameter in adapter.named_parameters():
                if spread and "up_" in name:
                    parameter.normal_(0.0, spread)
        return TrainedParts(PromptEncoder(WIDTH, options), options, adapter)
