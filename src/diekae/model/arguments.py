"""Checks of a model's arguments, with advice in the error messages."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.fields import did_you_mean
from diekae.files import existing_path
from diekae.fingerprint import window
from diekae.inject.columns import unpadded


def check_decoder(decoder: Any) -> None:
    """Refuse what is not a loaded decoder, such as its name, by a TypeError."""
    if isinstance(decoder, str | Path):
        raise TypeError(
            f"decoder is the name {str(decoder)!r}; expected a loaded model. Load a bank with its decoder: "
            f"DiekaeModel.from_pretrained(bank); or a decoder: decoder, tokenizer = load_decoder({str(decoder)!r})."
        )
    if not isinstance(decoder, nn.Module) or not hasattr(decoder, "get_input_embeddings"):
        raise TypeError(
            f"decoder is of type {type(decoder).__name__}; expected a *ForCausalLM of Transformers, as in: "
            "decoder, tokenizer = load_decoder(name); DiekaeModel(decoder, config, tokenizer)."
        )
    if hasattr(decoder, "_orig_mod"):
        raise TypeError(
            "decoder is what torch.compile returned; pass the decoder itself: decoder._orig_mod. It runs uncompiled "
            "while knowledge is injected."
        )


def check_input(decoder: PreTrainedModel, input_ids: Any, options: Iterable[str]) -> None:
    """Refuse input ids that the decoder cannot read, and misspelt options.

    Raises:
        TypeError: The ids are not a tensor of integers, or an option is a misspelt ``knowledge`` or ``injection_mask``.
        ValueError: The ids are not [B, L], are empty, or exceed the decoder's window.
    """
    for name in options:
        if hint := did_you_mean(name, ("knowledge", "injection_mask"), cutoff=0.8):
            raise TypeError(f"argument {name!r} is not known.{hint}")
    if isinstance(input_ids, str):
        raise TypeError(
            f"input_ids is the text {input_ids!r}; expected a tensor [rows, tokens]. Tokenize it first: "
            f"model.generate(**model.tokenize({input_ids!r}), …)."
        )
    if not isinstance(input_ids, Tensor):
        raise TypeError(
            f"input_ids is {type(input_ids).__name__}; expected a tensor [rows, tokens]. Unpack what `tokenize` and "
            "`apply_chat_template(…, return_dict=True)` return: model.generate(**inputs, …)."
        )
    if input_ids.is_floating_point():
        raise TypeError(f"input_ids is of type {input_ids.dtype}; expected token ids, as `tokenize` returns them.")
    if input_ids.ndim != 2 or input_ids.numel() == 0:
        raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}; expected [rows, tokens], both at least 1.")
    if input_ids.shape[1] > window(decoder):
        raise ValueError(
            f"the input has {input_ids.shape[1]} tokens, but the decoder's window is {window(decoder)}; "
            "shorten it, or give part of it as knowledge."
        )


def check_embeddings(embeddings: Any, input_ids: Tensor) -> None:
    """Refuse ``inputs_embeds`` that are not [B, L, V], one for each of the ids [B, L], by a ValueError."""
    shape = tuple(getattr(embeddings, "shape", ()))
    if embeddings is not None and shape[:2] != tuple(input_ids.shape):
        raise ValueError(
            f"inputs_embeds has shape {shape}; expected one embedding for each of the {tuple(input_ids.shape)} "
            "input_ids, which say where the anchor ends and what is asked. Give a token for every embedding."
        )


def check_generation(decoder: PreTrainedModel, input_ids: Tensor, mask: Tensor, options: Mapping[str, Any]) -> None:
    """Refuse the ways of generating in which knowledge would be lost, or belong to other columns.

    Where the options say nothing, the decoder's own settings hold. The mask is 0 at padding, [B, L] or over cached and
    new columns.

    Raises:
        ValueError: The prompt is padded on the right, or an option is not supported with knowledge.
    """
    settings = options.get("generation_config") or decoder.generation_config

    def setting(name: str) -> Any:
        return options.get(name, getattr(settings, name, None))

    check_embeddings(options.get("inputs_embeds"), input_ids)
    if not bool(mask[:, -1].all()):
        raise ValueError(
            "the prompt is padded on the right, so what is generated would stand after the padding; pad on the left, "
            "as model.tokenize does."
        )
    if setting("cache_implementation") == "paged":
        raise ValueError(
            "cache_implementation='paged' (continuous batching, generate_batch) is not supported with knowledge: it "
            "puts the tokens of several requests into one row, in a thread of its own. Give generate a batch instead."
        )
    if setting("token_healing"):
        raise ValueError(
            "token_healing=True is not supported with knowledge: it changes the prompt after K's place in it was "
            "settled. Leave it out."
        )
    if not isinstance(options.get("assistant_model"), PreTrainedModel | None):
        raise ValueError(
            f"assistant_model is of type {type(options['assistant_model']).__name__}; expected a decoder of "
            "Transformers: a smaller one, or model.decoder of another model. It drafts without knowledge."
        )


def check_mask(mask: Any, name: str, input_ids: Tensor) -> None:
    """Refuse a mask that does not have an entry for each column of the prompt [B, L], those in the cache included.

    Raises:
        TypeError: It is not a tensor.
        ValueError: It has another shape.
    """
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} is {type(mask).__name__}; expected a tensor [rows, tokens].")
    if mask.shape != input_ids.shape:
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)}; expected {tuple(input_ids.shape)}, one entry for each row and "
            "token of the prompt, those in the cache included."
        )


def prompts_of(input_ids: Tensor, mask: Tensor | None) -> list[tuple[int, ...]]:
    """Return the tokens of each prompt [B, L] without padding; errors as of :func:`check_mask`."""
    check_mask(mask, "attention_mask", input_ids)
    return unpadded(input_ids, mask)


def as_texts(value: Any, name: str, expected: str) -> list[str]:
    """Return one text or several as a list; others are a TypeError with the argument's name and what was expected."""
    texts = list(value) if isinstance(value, Iterable) and not isinstance(value, str | Mapping) else [value]
    for text in texts:
        if not isinstance(text, str):
            advice = "; read the file first: path.read_text()" if isinstance(text, Path) else ""
            verb = "is" if text is value else "holds"
            raise TypeError(f"{name} {verb} {text!r}; expected {expected}, each a str{advice}.")
    return texts


def check_document(text: str) -> str:
    """Return a document; refuse the name of a file that the caller probably meant to read, by a ValueError."""
    path = existing_path(text)
    if path is not None and path.is_file():
        raise ValueError(
            f"knowledge is the text {text!r}, and a file of that name exists; give the file's content: "
            f"Path({text!r}).read_text(), or let a KnowledgeStore read it. If these words are meant, end them with "
            "a line break."
        )
    return text
