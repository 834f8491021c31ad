"""The learned gate: opens where the input names an edit's subject and asks the same as the edit's prompt.

Subject and question are matched separately. Names are matched by their letters (:mod:`diekae.edit.name_search`).
Questions are compared as vectors (:mod:`diekae.edit.prompt_encoder`): in the input and in the edit's prompt a
stand-in replaces the subject, so that a vector says what is asked, and not about whom.
"""

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
import torch

from diekae.edit.edit import Edit
from diekae.edit.gate import MAX_EDITS, Gate, GateEntry, Vectors, by_name
from diekae.edit.name_search import ExactNames, NameMatch, NearNames
from diekae.edit.prompt_encoder import GateOptions, PromptEncoder, StateReader
from diekae.placement import input_device
from diekae.progress import Progress, silent

BATCH = 32
"""Texts that the decoder reads in one pass."""
STAND_IN = "X"
"""Replaces the subject."""
TIE = 0.03
"""Largest difference in similarity at which two edits of one subject match equally well; the newer one applies."""
CACHED_TEXTS = 4096
"""Texts whose vectors are cached."""
MAX_NEAR_NAMES = 8
"""Most names that nearly occur in a text and are considered."""

Match = tuple[float, int]
"""Similarity and id of an edit."""


class _NamedEdits(NamedTuple):
    """The edits of a gate, and the search for their names."""

    groups: list[list[GateEntry]]
    """The edits of each name, by the name's number."""
    exact: ExactNames
    near: NearNames

    def best(self, vector: Vectors, name: NameMatch) -> Match:
        """Return the greatest similarity among the edits of a name, and the newest edit that ties with it."""
        entries = [entry for number in name.numbers for entry in self.groups[number]]
        similarities = [(float(vector @ entry.vector), entry.id) for entry in entries]
        best = max(similarities)[0]
        return best, max(number for similarity, number in similarities if similarity > best - TIE)

    def near_names(self, text: str, exact: Sequence[NameMatch]) -> list[NameMatch]:
        """Return names that nearly occur, outside those that occur exactly."""
        return [match for match in self.near.find(text) if match.is_outside(exact)][:MAX_NEAR_NAMES]


class LearnedGate(Gate):
    """Opens where the input names an edit's subject and asks the same as the edit's prompt."""

    name = "learned"

    def __init__(self, states: StateReader, encoder: PromptEncoder, options: GateOptions) -> None:
        """Start without edits, with a reader of the decoder's states and the encoder that was trained for them."""
        self.states, self.encoder, self.options = states, encoder.to(input_device(states.decoder)), options
        self.width = options.width
        self._cache: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.Lock()
        self.set_edits([])

    @property
    def fingerprint(self) -> str:
        """Return a digest of the encoder and what it reads. Thresholds are left out: they change no vector."""
        digest = hashlib.sha256(json.dumps([self.options.layers, STAND_IN, self.states.anchor]).encode())
        for tensor in self.encoder.state_dict().values():
            digest.update(tensor.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
        return f"{self.name}-{digest.hexdigest()[:16]}"

    def encode(self, edits: Sequence[Edit], progress: Progress = silent) -> Vectors:
        """See :meth:`Gate.encode`. Edits that ask the same about different subjects are read once."""
        questions = [without_subject(edit) for edit in edits]
        vectors = self.vectors(dict.fromkeys(questions), progress)
        return np.stack([vectors[text] for text in questions]) if questions else np.zeros((0, self.width), np.float32)

    @torch.no_grad()
    def vectors(self, texts: Iterable[str], progress: Progress = silent) -> dict[str, Vectors]:
        """Return the vectors of texts. Texts of similar length are read together; recent vectors are cached."""
        texts = list(texts)
        with self._lock:
            vectors = {text: self._cache[text] for text in texts if text in self._cache}
        fresh = sorted({text for text in texts if text not in vectors}, key=len)
        for start in range(0, len(fresh), BATCH):
            batch = fresh[start : start + BATCH]
            vectors |= dict(zip(batch, self.encoder(*self.states(batch)).cpu().numpy(), strict=True))
            progress("reading prompts", min(len(fresh), start + BATCH), len(fresh))
        with self._lock:
            self._cache |= {text: vectors[text] for text in fresh}
            while len(self._cache) > CACHED_TEXTS:
                self._cache.popitem(last=False)
        return vectors

    def set_edits(self, entries: Sequence[GateEntry]) -> None:
        """See :meth:`Gate.set_edits`."""
        groups = by_name(entries)
        # One assignment: a thread that opens the gate meanwhile sees the names and groups of the same edits.
        self._edits = _NamedEdits(list(groups.values()), ExactNames(list(groups)), NearNames(list(groups)))

    def open(self, texts: Sequence[str]) -> list[list[int]]:
        """See :meth:`Gate.open`. Of each subject that occurs exactly, the most similar edit applies.

        If none applies, the best of those whose subject nearly occurs does.
        """
        edits = self._edits
        exact = [edits.exact.find(text) for text in texts]
        matches = [sorted(row, reverse=True) for row in self._matches(edits, texts, exact, self.options.mentioned)]
        closed = [number for number, row in enumerate(matches) if not row]
        near = [edits.near_names(texts[number], exact[number]) for number in closed]
        rows = self._matches(edits, [texts[number] for number in closed], near, self.options.nearly)
        for number, row in zip(closed, rows, strict=True):
            matches[number] = row[:1]
        return [list(dict.fromkeys(number for _, number in row))[:MAX_EDITS] for row in matches]

    def to(self, device: torch.device) -> None:
        """See :meth:`Gate.to`."""
        self.encoder.to(device)

    def _matches(
        self, edits: _NamedEdits, texts: Sequence[str], names: Sequence[Sequence[NameMatch]], threshold: float
    ) -> list[list[Match]]:
        """Return for each text the best edit of each name in it, where one is similar enough."""
        questions = [
            [normalize("NFC", name.replaced(text, STAND_IN)) for name in row]
            for text, row in zip(texts, names, strict=True)
        ]
        vectors = self.vectors(dict.fromkeys(question for row in questions for question in row))
        matches: list[list[Match]] = []
        for row, asked in zip(names, questions, strict=True):
            best = (edits.best(vectors[question], name) for name, question in zip(row, asked, strict=True))
            matches.append([match for match in best if match[0] >= threshold])
        return matches

    def conflicts(self, entry: GateEntry, others: Sequence[GateEntry]) -> list[int]:
        """See :meth:`Gate.conflicts`: same subject, another target, and prompts as similar as an input must be."""
        names = set(entry.edit.folded_names)
        candidates = [
            other
            for other in others
            if names & set(other.edit.folded_names)
            and other.edit.target.strip() != entry.edit.target.strip()
            and other.edit.fact != entry.edit.fact
        ]
        return [other.id for other in candidates if float(entry.vector @ other.vector) >= self.options.mentioned]


def without_subject(edit: Edit) -> str:
    """Return an edit's prompt with the subject replaced by the stand-in, as a whole word if it occurs as one."""
    prompt, subject = (normalize("NFC", text) for text in (strip_format(edit.prompt), edit.subject.strip()))
    replaced = re.sub(rf"(?<!\w){re.escape(subject)}(?!\w)", STAND_IN, prompt)
    return replaced if replaced != prompt else prompt.replace(subject, STAND_IN, 1)


def strip_format(text: str) -> str:
    """Remove the words of the format ``qa`` around a question, so that both formats give the same vector."""
    return text.strip().removeprefix("Question: ").removesuffix("Answer:").strip()
