"""Texts, templates and tokenizers in which tokens and characters correspond in different ways."""

import random
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from builders import WORDS, make_tokenizer

TEMPLATES = [
    "{knowledge}",
    "Context: {knowledge}\n\n",
    "</s> of {knowledge} </s> by",
    "</s>{knowledge}",
    "{knowledge} old</s>",
]
TEXTS = [
    "the castle was built by king four. the gate is gold.\n\nthe river has seven dogs. a ship is in the sea.",
    "# Hill\n\nthe </s> tower <s> is </s></s> red.\n\n"
    "| a | <pad> |\n| - | - |\n| six | <unk> |\n\n## Sea\n\n<s>the ship",
    "  the tall café 東京 😀👩‍🚀 e\u0301\n\n\n ß tower   of\tthe sea \n",
]
KINDS = ["words", "bytes", "blank first"]


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of words, of bytes with the blank before, or one that puts a blank before the text."""
    if kind == "words":
        return make_tokenizer(chat=True)
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(vocab_size=360, initial_alphabet=alphabet, show_progress=False)
    else:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        fallback = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=380, special_tokens=["<unk>", *fallback], show_progress=False)
    tokenizer.train_from_iterator(WORDS * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def spans_of(text: str, seed: int, count: int = 3) -> list[tuple[int, int]]:
    """Return random spans of a text, in any order."""
    draw = random.Random(seed)
    return [tuple(sorted(draw.sample(range(len(text) + 1), 2))) for _ in range(draw.randint(1, count))]  # type: ignore[misc]
