"""Embedders: what turns texts into vectors, so that a search also finds passages that share no word with the question.

Static embeddings are the default: a table of word vectors, without a model to run. An encoder, any that Transformers'
``AutoModel`` loads, finds more paraphrases, and takes longer.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from diekae.fingerprint import fingerprint
from diekae.models import LOADING_ERRORS, load_weights

Vectors = NDArray[np.float32]
EmbedFunction = Callable[[Sequence[str]], Vectors]
"""Turns texts into vectors of length 1, [texts, dimensions]; the vector of a blank text is zero."""
EmbedderKind = Literal["static", "encoder"]
BATCH = 16
"""Texts that an encoder reads at once."""
LONGEST = 512
"""Most tokens of a text that an encoder reads."""


@dataclass(frozen=True)
class Embedder:
    """Turns texts into vectors."""

    embed: EmbedFunction
    """Does it."""
    kind: EmbedderKind = "static"
    """Decides how much likeness counts in the ranking, and how the confidence reads it. Functions count as static."""
    name: str = ""
    """An encoder's name, and the digest of its weights: ``all-MiniLM-L6-v2@…``; empty for all others. It is kept in the
    catalogue, because vectors of two embedders cannot be compared."""


EmbedderChoice = Embedder | EmbedFunction | str | Path | None
"""An encoder's name or folder, a function, an embedder as it is, or None for static embeddings."""


def make_embedder(embedder: EmbedderChoice, device: torch.device | str = "cpu") -> Embedder:
    """Return the embedder that is meant; an encoder runs on the device. ValueError if it cannot be loaded."""
    if isinstance(embedder, Embedder):
        return embedder
    if isinstance(embedder, (str, Path)):
        return load_encoder(str(embedder), device)
    # WordLlama is loaded when it is first needed.
    return Embedder(embedder or (lambda texts: static_embedder()(texts)))


@cache
def static_embedder() -> EmbedFunction:
    """Return WordLlama's static embeddings, 256 dimensions: 16 MB from its package, without running a model."""
    # WordLlama configures the process's logging when it is imported, unless there is a handler.
    root_logger, handler = logging.getLogger(), logging.NullHandler()
    root_logger.addHandler(handler)
    try:
        import wordllama
    finally:
        root_logger.removeHandler(handler)

    # Without these arguments it would download the tokenizer that is already in its package.
    model: Any = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)

    def embed(texts: Sequence[str]) -> Vectors:
        rows = [row for row, text in enumerate(texts) if text.strip()]
        vectors = np.zeros((len(texts), model.embedding.shape[1]), np.float32)
        if rows:
            vectors[rows] = model.embed([texts[row] for row in rows])
        lengths: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
        lengths[lengths == 0] = 1
        vectors /= lengths
        return vectors

    return embed


def load_encoder(name_or_path: str, device: torch.device | str = "cpu") -> Embedder:
    """Load an encoder of sentences in fp32, and its tokenizer. No code of the model is run, and no pickle is opened.

    The name is a folder, or an id on the Hugging Face hub: ``sentence-transformers/all-MiniLM-L6-v2``.

    Raises:
        ValueError: No encoder of this name can be loaded.
    """
    expected = (
        "expected a folder or the id of a sentence encoder on the Hugging Face hub, such as "
        "'sentence-transformers/all-MiniLM-L6-v2'"
    )
    try:
        model, missing = load_weights(AutoModel, name_or_path, torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except LOADING_ERRORS as error:
        first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(
            f"cannot load an embedder from {name_or_path!r}: {expected}. The loader's error: {first_line}"
        ) from error
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # not used here, and random in some encoders
    if missing := [key for key in missing if not key.startswith("pooler.")]:
        raise ValueError(f"{name_or_path!r} has no weights for {missing[0]}, which would be random; {expected}.")
    if model.config.is_encoder_decoder or tokenizer.pad_token_id is None:
        raise ValueError(f"{name_or_path!r} is no encoder, or its tokenizer has no padding token; {expected}.")
    name = f"{Path(name_or_path).absolute().name}@{fingerprint(model)}"
    return Embedder(_Encoder(model.to(device).eval(), tokenizer), "encoder", name)


def same_embedder(name: str, other: str) -> bool:
    """Tell whether two names mean the same weights, whatever their folders are called."""
    return name.rpartition("@")[2] == other.rpartition("@")[2]


class _Encoder:
    """The mean of an encoder's last states, as vectors of length 1."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._longest = min(tokenizer.model_max_length, LONGEST)
        self._lock = threading.Lock()  # a tokenizer must not be called by two threads at once

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors; texts of like length are read together."""
        rows = sorted((row for row, text in enumerate(texts) if text.strip()), key=lambda row: len(texts[row]))
        vectors = np.zeros((len(texts), self.model.config.hidden_size), np.float32)
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            with self._lock:
                inputs = self.tokenizer(
                    [texts[row] for row in batch],
                    padding=True,
                    truncation=True,
                    max_length=self._longest,
                    return_tensors="pt",
                ).to(self.model.device)
            states = self.model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            # The mean up to a factor, which the length of 1 takes away.
            vectors[batch] = torch.nn.functional.normalize((states * mask).sum(1), dim=-1).cpu().numpy()
        return vectors
