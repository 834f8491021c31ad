"""From a prompt to texts: greedy options, generated rows up to their ends, and the one function that decodes them.

Shapes: B prompts, L columns of the prompt, T columns that are generated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diekae.knowledge import Knowledge

if TYPE_CHECKING:
    from diekae.model.model import DiekaeModel


def generate_texts(
    model: DiekaeModel, input_ids: Tensor, attention_mask: Tensor, knowledge: Knowledge = None, **options: Any
) -> tuple[list[str], Tensor]:
    """Generate after prompts [B, L] padded on the left, greedily unless the options of ``generate`` say otherwise.

    The options hold at least ``max_new_tokens``.

    Returns:
        The text that was generated after each prompt, without control tokens and blanks around it; and the tokens of
        prompts and texts, [B, L + T].
    """
    tokenizer = model.need_prompter().tokenizer
    if not options.get("do_sample"):
        options = {**greedy_options(options.pop("max_new_tokens"), tokenizer), **options}
    options.setdefault("pad_token_id", tokenizer.pad_token_id)
    output: Any = model.generate(input_ids, attention_mask=attention_mask, knowledge=knowledge, **options)
    generated: Tensor = output if isinstance(output, Tensor) else output.sequences
    rows = until_end(generated[:, input_ids.shape[1] :], model.decoder)
    return [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in rows], generated


def greedy_options(max_new_tokens: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the arguments of ``generate`` that make it greedy, whatever the decoder's generation settings."""
    return {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "num_beams": 1,
        "temperature": None,
        "top_p": None,
        "top_k": None,
        "pad_token_id": tokenizer.pad_token_id or 0,
    }


def until_end(generated: Tensor, decoder: PreTrainedModel) -> list[list[int]]:
    """Cut generated rows [B, T] after the first end token, because the padding token may be an ordinary token."""
    ends, rows = end_tokens(decoder), generated.tolist()
    return [row[: next((n for n, token in enumerate(row, 1) if token in ends), len(row))] for row in rows]


def end_tokens(decoder: PreTrainedModel) -> set[int]:
    """Return the tokens that end a generated text."""
    ends = getattr(decoder.generation_config, "eos_token_id", None)
    return set(ends) if isinstance(ends, list) else set() if ends is None else {ends}
