"""The learned gate: who is named in an input, and whether it asks of them what an edit's prompt asks.

Names are found by their letters (:mod:`diekae.edit.names`). What is asked is read from the decoder's own states: the
subject is replaced by a stand-in, in the input and in the edit's prompt, and both become vectors, so that they tell the
question alone, whoever it is asked of. A few heads pool the states in two early layers, each by an attention of its own
over the tokens, and the pooled states are projected and normalised: [width]. Trained once for a decoder
(:mod:`diekae_research.editing.gate_training`).

Shapes: L layers read, B texts, T tokens, W decoder width, H heads, d width of a head.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.data.prompt import Prompter
from diekae.edit.edit import Edit
from diekae.edit.gate import MOST, Entry, Gate, Vectors, by_name
from diekae.edit.names import ExactNames, NearNames, Place
from diekae.inject.hookpoints import find_hookpoints
from diekae.inject.hooks import run
from diekae.progress import Progress, silent

REACH = 96
"""Last tokens of a text that are read: what is asked stands at its end."""
BATCH = 32
"""Texts a pass."""
STAND_IN = "X"
"""Stands where the subject stood."""
TIE = 0.03
"""Difference of likeness that tells two edits of one subject apart."""
REMEMBERED = 4096
"""Texts whose vectors are kept."""
NEAR = 8
"""Names that nearly stand in a text and are looked at."""


@dataclass(frozen=True)
class GateOptions:
    """Sizes of a learned gate, and how like an input must be."""

    layers: tuple[int, ...] = (3, 9)
    """Decoder layers whose outputs are read."""
    heads: int = 3
    """Heads a layer."""
    head_width: int = 32
    """d, numbers a head."""
    mentioned: float = 0.4
    """Least likeness (cosine) of an edit whose subject is named."""
    nearly: float = 0.5
    """Least likeness of an edit whose subject is nearly named: misspelt, or with words left out."""

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
    """Opens where an edit's subject is named and the input asks of it what the edit's prompt asks."""

    name = "learned"

    def __init__(self, states: States, encoder: PromptEncoder, options: GateOptions) -> None:
        """Start without edits.

        Args:
            states: The decoder's.
            encoder: Trained for that decoder.
            options: Its sizes and thresholds.
        """
        self.states, self.encoder, self.options = states, encoder.to(states.decoder.device), options
        self.width = options.width
        self._read: OrderedDict[str, Vectors] = OrderedDict()
        self.tell([])

    @property
    def fingerprint(self) -> str:
        """Return a digest of the encoder; thresholds change no vector."""
        digest = hashlib.sha256(json.dumps([self.options.layers, STAND_IN]).encode())
        for tensor in self.encoder.state_dict().values():
            digest.update(tensor.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
        return f"{self.name}-{digest.hexdigest()[:16]}"

    def encode(self, edits: Sequence[Edit], progress: Progress = silent) -> Vectors:
        """See :meth:`Gate.encode`; edits that ask the same of different subjects are read once."""
        asked = [without_subject(edit) for edit in edits]
        found = self.vectors(dict.fromkeys(asked), progress)
        return np.stack([found[text] for text in asked]) if asked else np.zeros((0, self.width), np.float32)

    @torch.no_grad()
    def vectors(self, texts: Iterable[str], progress: Progress = silent) -> dict[str, Vectors]:
        """Return the vectors of texts, those of like length read together, the last ones not again."""
        found = {text: self._read[text] for text in texts if text in self._read}
        fresh = sorted({text for text in texts if text not in found}, key=len)
        for start in range(0, len(fresh), BATCH):
            batch = fresh[start : start + BATCH]
            vectors = self.encoder(*self.states(batch)).cpu().numpy()
            found |= dict(zip(batch, vectors, strict=True))
            progress("reading prompts", min(len(fresh), start + BATCH), len(fresh))
        self._read |= {text: found[text] for text in fresh}
        while len(self._read) > REMEMBERED:
            self._read.popitem(last=False)
        return found

    def tell(self, entries: Sequence[Entry]) -> None:
        """See :meth:`Gate.tell`."""
        found = by_name(entries)
        self._entries = list(found.values())
        self._exact, self._near = ExactNames(list(found)), NearNames(list(found))

    def open(self, texts: Sequence[str]) -> list[list[int]]:
        """See :meth:`Gate.open`: of each subject that is named the likest edit; else of one that is nearly named."""
        exact = [self._exact.find(text) for text in texts]
        found = [sorted(row, reverse=True) for row in self._asked(texts, exact, self.options.mentioned)]
        shut = [number for number, row in enumerate(found) if not row]
        nearly = [
            [place for place in self._near.find(texts[number]) if place.apart(exact[number])][:NEAR] for number in shut
        ]
        rows = self._asked([texts[number] for number in shut], nearly, self.options.nearly)
        for number, row in zip(shut, rows, strict=True):
            found[number] = row[:1]
        return [list(dict.fromkeys(number for _, number in row))[:MOST] for row in found]

    def forget(self) -> None:
        """See :meth:`Gate.forget`."""
        self._read.clear()

    def to(self, device: torch.device) -> None:
        """See :meth:`Gate.to`."""
        self.encoder.to(device)

    def _asked(
        self, texts: Sequence[str], places: Sequence[Sequence[Place]], least: float
    ) -> list[list[tuple[float, int]]]:
        """Return likeness and id of the edit that is asked for at each place of each text, where one is."""
        asked = [[place.replaced(text, STAND_IN) for place in row] for text, row in zip(texts, places, strict=True)]
        vectors = self.vectors(dict.fromkeys(text for row in asked for text in row))
        found: list[list[tuple[float, int]]] = []
        for row, questions in zip(places, asked, strict=True):
            found.append([])
            for place, question in zip(row, questions, strict=True):
                vector = vectors[question]
                likeness = [(float(vector @ entry.vector), entry.id) for entry in self._entries[place.which]]
                best = max(likeness)[0]
                if best >= least:  # of edits that are about as like, the newest speaks
                    found[-1].append((best, max(number for value, number in likeness if value > best - TIE)))
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
        return [other.id for other in near if float(entry.vector @ other.vector) >= self.options.mentioned]


def without_subject(edit: Edit) -> str:
    """Return what an edit's prompt asks: the stand-in in its subject's place, a whole word wherever it is one."""
    prompt, subject = bare(edit.prompt), edit.subject.strip()
    found = re.sub(rf"(?<!\w){re.escape(subject)}(?!\w)", STAND_IN, prompt)
    return found if found != prompt else prompt.replace(subject, STAND_IN, 1)


def bare(text: str) -> str:
    """Take the words of the format ``qa`` away from around a question, that both formats are compared alike."""
    return text.strip().removeprefix("Question: ").removesuffix("Answer:").strip()
