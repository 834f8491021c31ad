"""The learned gate: an input and the edits' prompts become vectors, by the decoder's own states, and are compared.

A few heads pool the decoder's states of a text in two early layers, each by an attention of its own over the tokens,
and the pooled states are projected and normalised: [width]. A text and an edit's prompt that ask the same of the same
subject lie near each other, whatever the words. Trained once for a decoder (:mod:`diekae.editing.gate_training`).

A subject that is mentioned letter for letter is evidence of its own: with it the gate asks for less likeness, which
then mostly tells facts of one subject apart; where it is misspelt or shortened for more, and without it for most.

Shapes: L layers read, B texts, T tokens, W decoder width, H heads, d width of a head.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.data.prompt import Prompter
from diekae.editing.gate import MOST, Entry, Gate, MentionGate, Progress, Vectors
from diekae.inject.hookpoints import find_hookpoints
from diekae.inject.hooks import run

REACH = 96
"""Last tokens of a text that are read: what is asked stands at its end."""
BATCH = 32
"""Texts a pass."""
SPELT = 0.82
"""Share of letters that must agree where a name is misspelt."""
TIE = 0.03
"""Difference of likeness that tells two edits of one subject apart."""
REMEMBERED = 4096
"""Texts whose vectors are kept."""
NEAR = 16
"""Edits that are looked at beside those whose subject is mentioned."""


@dataclass(frozen=True)
class GateOptions:
    """Sizes of a learned gate, and how like an input must be."""

    layers: tuple[int, ...] = (3, 9)
    """Decoder layers whose outputs are read."""
    heads: int = 3
    """Heads a layer."""
    head_width: int = 32
    """d, numbers a head."""
    mentioned: float = 0.5
    """Least likeness (cosine) of an edit whose subject is mentioned."""
    nearly: float = 0.7
    """Least likeness of an edit whose subject is mentioned nearly: misspelt, or with words left out."""
    alone: float = 0.8
    """Least likeness of any other edit."""

    @property
    def width(self) -> int:
        """Return the length of a vector."""
        return len(self.layers) * self.heads * self.head_width


class PromptEncoder(nn.Module):
    """Pools and projects the decoder's states."""

    def __init__(self, width: int, options: GateOptions) -> None:
        """Start at random.

        Args:
            width: W.
            options: Sizes.
        """
        super().__init__()
        count = len(options.layers)
        self.query = nn.Parameter(torch.randn(count, options.heads, width) / width**0.5)
        self.project = nn.Parameter(torch.randn(count, options.heads, width, options.head_width) / width**0.5)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return vectors of length 1, [B, L·H·d].

        Args:
            states: [L, B, T, W].
            mask: Tokens that are read, bool [B, T].
        """
        x = states.float()
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        scores = torch.einsum("lbtw,lhw->lhbt", x, self.query.float()).masked_fill(~mask, -torch.inf)
        pooled = torch.einsum("lhbt,lbtw->lhbw", scores.softmax(-1), x)
        heads = torch.einsum("lhbw,lhwd->blhd", pooled, self.project.float())
        return nn.functional.normalize(heads.flatten(1), dim=1)


class States:
    """Reads the decoder's states of texts, up to the last layer that is wanted."""

    def __init__(self, decoder: PreTrainedModel, prompter: Prompter, anchor: tuple[int, ...], layers: Sequence[int]):
        """Find the layers."""
        self.decoder, self.prompter, self.anchor = decoder, prompter, anchor
        self.points = find_hookpoints(decoder, tuple(layers), "block")

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return states [L, B, T, W] and which tokens are the text's own, bool [B, T]."""
        rows = [self.anchor + self.prompter.input(text.strip() or ".", "plain")[-REACH:] for text in texts]
        length, device = max(map(len, rows)), self.decoder.device
        ids = torch.tensor([list(row) + [0] * (length - len(row)) for row in rows], device=device)
        place = torch.arange(length, device=device)[None]
        ends = torch.tensor([[len(row)] for row in rows], device=device)
        found: list[Tensor] = []
        run(self.decoder, ids, self.points, lambda _layer, stream, _output: found.append(stream))
        return torch.stack(found), (place >= len(self.anchor)) & (place < ends)


class LearnedGate(Gate):
    """Opens for edits whose prompt asks what the input asks."""

    name = "learned"

    def __init__(self, states: States, encoder: PromptEncoder, options: GateOptions) -> None:
        """Start without edits.

        Args:
            states: The decoder's.
            encoder: Trained for that decoder.
            options: Its sizes and thresholds.
        """
        self.states, self.encoder, self.options = states, encoder.to(states.decoder.device), options
        self.width, self.mention = options.width, MentionGate()
        self._entries: dict[int, Entry] = {}
        self._index: Any = None
        self._read: OrderedDict[str, Vectors] = OrderedDict()

    @property
    def fingerprint(self) -> str:
        """Return a digest of the encoder; thresholds change no vector."""
        digest = hashlib.sha256(json.dumps(asdict(self.options)["layers"]).encode())
        for tensor in self.encoder.state_dict().values():
            digest.update(tensor.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
        return f"{self.name}-{digest.hexdigest()[:16]}"

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], progress: Progress = lambda _what, _done, _all: None) -> Vectors:
        """See :meth:`Gate.encode`; texts of like length are read together."""
        found = np.zeros((len(prompts), self.width), np.float32)
        order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            found[rows] = self.encoder(*self.states([bare(prompts[row]) for row in rows])).cpu().numpy()
            progress("reading prompts", min(len(order), start + BATCH), len(order))
        return found

    def tell(self, entries: Sequence[Entry]) -> None:
        """See :meth:`Gate.tell`."""
        faiss = _faiss()
        self._entries = {entry.id: entry for entry in entries}
        self.mention.tell(entries)
        self._index = faiss.IndexIDMap(faiss.IndexFlatIP(self.width))
        if entries:
            vectors = np.stack([entry.vector for entry in entries]).astype(np.float32)
            self._index.add_with_ids(vectors, np.array([entry.id for entry in entries], np.int64))

    def open(self, texts: Sequence[str]) -> list[list[int]]:
        """See :meth:`Gate.open`."""
        if not self._entries or not texts:
            return [[] for _ in texts]
        vectors = self._vectors(texts)
        scores, ids = self._index.search(vectors, min(NEAR, len(self._entries)))
        return [self._decide(*row) for row in zip(texts, vectors, scores, ids, strict=True)]

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts, of the last ones without reading them again."""
        fresh = [text for text in dict.fromkeys(texts) if text not in self._read]
        if fresh:
            self._read |= dict(zip(fresh, self.encode(fresh), strict=True))
        found = np.stack([self._read[text] for text in texts])
        while len(self._read) > REMEMBERED:
            self._read.popitem(last=False)
        return found

    def forget(self) -> None:
        """See :meth:`Gate.forget`."""
        self._read.clear()

    def nearest(self, vectors: Vectors) -> Vectors:
        """Return the likeness of the likest edit to each vector, [B]."""
        found: Vectors = self._index.search(vectors, 1)[0][:, 0]
        return found

    def _decide(self, text: str, vector: Vectors, scores: Vectors, ids: Any) -> list[int]:
        """Return the edits that speak to one text: of each subject that is mentioned the likest, else the likest."""
        chosen: list[tuple[float, int]] = []
        for group in self.mention.mentioned(text):
            likeness = [(float(vector @ self._entries[number].vector), number) for number in group]
            best = max(likeness)[0]
            if best >= self.options.mentioned:  # of edits that are about as like, the newest speaks
                chosen.append((best, max(number for value, number in likeness if value > best - TIE)))
        if not chosen:
            chosen = self._unmentioned(text, scores, ids)[:1]
        return list(dict.fromkeys(number for _, number in sorted(chosen, reverse=True)))[:MOST]

    def _unmentioned(self, text: str, scores: Vectors, ids: Any) -> list[tuple[float, int]]:
        """Return edits that speak though their subject is not mentioned letter for letter, the likest first."""
        found = []
        for score, number in zip(scores.tolist(), ids.tolist(), strict=True):
            least = self.options.alone
            if score >= self.options.nearly:
                names = self._entries[number].edit.names
                least = min(least, self.options.nearly) if any(resembles(name, text) for name in names) else least
            if score >= least:
                found.append((score, number))
        return found

    def conflicts(self, entry: Entry, others: Sequence[Entry]) -> list[int]:
        """See :meth:`Gate.conflicts`: another target for the same subject, and a prompt as like as an input must be."""
        names = set(entry.edit.names)
        near = [
            other
            for other in others
            if names & set(other.edit.names)
            and other.edit.target.strip() != entry.edit.target.strip()
            and other.edit.fact != entry.edit.fact
        ]
        return [other.id for other in near if float(entry.vector @ other.vector) >= self.options.alone]


def resembles(name: str, text: str) -> bool:
    """Tell whether a text holds nearly a name: some letters differ, or half of them stand there in whole words."""
    fuzz = _fuzz()
    if fuzz.partial_ratio(name, text, score_cutoff=100 * SPELT) > 0:
        return True
    words, there = re.findall(r"\w+", name), re.findall(r"\w+", text)
    kept = [word for word in words if len(word) > 2 and any(fuzz.ratio(word, other) >= 90 for other in there)]
    return 2 * sum(map(len, kept)) >= sum(map(len, words))


def bare(text: str) -> str:
    """Take the words of the format ``qa`` away from around a question, that both formats are compared alike."""
    return text.strip().removeprefix("Question: ").removesuffix("Answer:").strip()


def _fuzz() -> Any:
    try:
        from rapidfuzz import fuzz
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the learned gate needs rapidfuzz: run `pip install 'diekae[editing]'`") from error
    return fuzz


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the learned gate needs faiss: run `pip install 'diekae[editing]'`") from error
    return faiss
