"""The edits of a model: each is knowledge that the bank has read once, injected where the gate opens for it.

Nothing is trained for an edit. Where the gate stays closed, the output is the bare decoder's, bit for bit.

Shapes: B rows, L columns.
"""

import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diekae.data.formats import FORMATS, wrapping
from diekae.data.prompt import Prompter
from diekae.edit.adapter import EditAdapter
from diekae.edit.edit import Edit, make_edit
from diekae.edit.gate import Gate, GateEntry
from diekae.edit.store import EditStore, Record
from diekae.editor import Call, Editor
from diekae.fingerprint import fingerprint
from diekae.inject.cache import cache_in
from diekae.inject.columns import unpadded
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent

EditIds = list[list[int]]
"""Ids of edits, for each text. (Inside the class below, `list` means its method.)"""
Decisions = list[tuple[list[int], tuple[int, ...]]]
"""For each row, the ids of the edits that apply to it, and the anchor that it begins with."""
CACHED_BYTES = 1_000_000_000
"""Prepared knowledge that is cached on the device; other is read from the store, or prepared, when it is needed."""
BATCH = 16
"""Statements that the bank reads in one pass."""
PRECISION: Literal["bf16"] = "bf16"
"""Type of the floats of stored prepared knowledge: half the size, and precise enough for keys."""


class Edits(Editor):
    """Edits that can be listed, reverted and saved one by one; each is in force as soon as it is made."""

    entries: Sequence[GateEntry] = ()
    """The live edits, as the gate has them."""

    def __init__(self, model: DiekaeModel, store: EditStore, gate: Gate, adapter: EditAdapter | None = None) -> None:
        """Use the edits of a store that was made for the model; the adapter, if any, changes what is injected."""
        self.model, self.store, self.gate, self.adapter = model, store, gate, adapter
        self._version: tuple[int, int] | None = None
        self._cache: OrderedDict[tuple[int, tuple[int, ...]], PreparedKnowledge] = OrderedDict()
        self._decisions: weakref.WeakKeyDictionary[Any, Decisions] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"Edits({self.store!r}, gate {self.gate.name!r}{'' if self.adapter is None else ', adapter'})"

    def to(self, device: torch.device) -> None:
        """See :meth:`Editor.to`."""
        self._cache.clear()
        self.gate.to(device)
        if self.adapter is not None:
            self.adapter.to(device)

    def add(self, edits: Sequence[Edit | Mapping[str, Any]], *, progress: Progress = silent) -> list[Record]:
        """Make edits, each whole or not at all; dictionaries are read by :func:`make_edit`. All are checked first.

        An edit supersedes an older one of the same prompt and subject.

        Raises:
            OSError: An edit cannot be written; the message says how many were made.
            ValueError: An edit is not valid, occurs twice, or exists already; or the store is damaged.
        """
        new_edits = [edit if isinstance(edit, Edit) else make_edit(edit) for edit in edits]
        self._check_new(new_edits)
        self.refresh()  # damage is found before anything is written
        records: list[Record] = []
        for number, edit in enumerate(new_edits, 1):
            try:
                records.append(self.store.add(edit))
            except (OSError, ValueError) as error:
                raise type(error)(f"{error} {len(records)} of {len(new_edits)} edits were made.") from error
            progress("writing edits", number, len(new_edits))
        try:
            self.prepare(progress=progress)
        except OSError as error:
            warnings.warn(
                f"The edits were made, but what the bank reads of them was not stored: {error} It is computed when it "
                "is needed.",
                stacklevel=2,
            )
        return records

    def _check_new(self, edits: Sequence[Edit]) -> None:
        numbers: dict[tuple[Any, str], int] = {}
        for number, edit in enumerate(edits):
            key = (edit.fact, edit.target.strip())
            if key in numbers or (stored := self.store.duplicate(edit)) is not None:
                same = f"{numbers[key] + 1} of the same list" if key in numbers else f"{stored}, which is in force"
                raise ValueError(
                    f"edit {number + 1}, {edit.prompt!r} → {edit.target!r}, says the same as edit {same}; leave one of "
                    "them out. Nothing was written."
                )
            numbers[key] = number

    def prepare(self, *, progress: Progress = silent) -> None:
        """Read the statements of live edits that have no prepared knowledge, also those that a crash left out.

        Raises:
            OSError: The prepared knowledge cannot be stored.
        """
        self.refresh(progress)
        missing = [self.store.record(number) for number in self.store.without_prepared()]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            all_prepared = self.model.prepare_many([record.edit.statement for record in batch], batch_size=BATCH)
            for record, prepared in zip(batch, all_prepared, strict=True):
                self.store.put_prepared(record.id, prepared.to_bytes(PRECISION))
            progress("reading statements", min(len(missing), start + BATCH), len(missing))

    def list(self, *, every: bool = False) -> list[Record]:
        """Return the live edits, or with ``every`` superseded and reverted ones too."""
        return self.store.records(every=every)

    def revert(self, number: int) -> Record | None:
        """Revert an edit: the decoder answers as if it had never been made; see :meth:`EditStore.revert`.

        Raises:
            ValueError: There is no such edit, or it was reverted before.
        """
        return self.store.revert(number)

    def conflicts(self) -> Sequence[tuple[Record, Record]]:
        """Return pairs of live edits, older first, that seem to give one fact two targets, in different prompts."""
        self.refresh()
        records = {record.id: record for record in self.store.records()}
        by_name: dict[str, list[GateEntry]] = {}
        pairs = []
        for entry in self.entries:
            related = {other.id: other for name in entry.edit.folded_names for other in by_name.get(name, [])}
            older = self.gate.conflicts(entry, list(related.values()))
            pairs += [(records[number], records[entry.id]) for number in older]
            for name in entry.edit.folded_names:
                by_name.setdefault(name, []).append(entry)
        return pairs

    def save(self, folder: str | Path) -> None:
        """Write all edits into a folder; :func:`diekae.edit.load_edits` reads them.

        Raises:
            FileExistsError: The folder holds other edits.
        """
        self.store.copy_to(folder)

    def refresh(self, progress: Progress = silent) -> None:
        """Give the gate the live edits, if this process or another has changed them.

        Changes that another process makes meanwhile are seen by the next call.
        """
        with self._lock:
            if self.store.version() == self._version:
                return
            gate = self.gate
            version, records, vectors = self.store.snapshot(gate.fingerprint)
            fresh = [record for record in records if gate.width and record.id not in vectors]
            if fresh:
                encoded = gate.encode([record.edit for record in fresh], progress)
                rows = [(record.id, vector.tobytes()) for record, vector in zip(fresh, encoded, strict=True)]
                with suppress(OSError):  # where nothing can be written, the next process computes them again
                    self.store.put_vectors(gate.fingerprint, rows)
                vectors |= dict(rows)
            self.entries = [GateEntry(r.id, r.edit, np.frombuffer(vectors.get(r.id, b""), np.float32)) for r in records]
            gate.set_edits(self.entries)
            self._version = version

    def which(self, texts: Sequence[str]) -> EditIds:
        """Return the ids of the edits that apply to each text; empty where the gate stays closed."""
        self.refresh()
        return self.gate.open(texts) if self.entries else [[] for _ in texts]

    def knowledge(self, texts: Sequence[str]) -> Sequence[PreparedKnowledge | None]:
        """Return what is injected for each text; None where the gate stays closed."""
        return [self.joined(ids, self.model.anchor) for ids in self.which(texts)]

    def joined(self, ids: Sequence[int], anchor: tuple[int, ...]) -> PreparedKnowledge | None:
        """Return what some edits inject together into inputs that begin with an anchor; None for no edits."""
        return PreparedKnowledge.join([self._prepared(number, anchor) for number in ids]) if ids else None

    def _prepared(self, number: int, anchor: tuple[int, ...]) -> PreparedKnowledge:
        """Return what one edit injects, from the cache if it is there."""
        key = number, anchor
        cached = self._cache.get(key)
        prepared = self._read_prepared(number, anchor) if cached is None else cached
        with self._lock:
            self._cache[key] = prepared
            self._cache.move_to_end(key)
            size = sum(kept.nbytes for kept in self._cache.values()) if cached is None else 0
            while size > CACHED_BYTES:
                size -= self._cache.popitem(last=False)[1].nbytes
        return prepared

    def _read_prepared(self, number: int, anchor: tuple[int, ...]) -> PreparedKnowledge:
        """Return what one edit injects, from the store if it is there and was read after this anchor."""
        data = self.store.prepared(number)
        try:
            prepared = None if data is None else PreparedKnowledge.from_bytes(data)
        except ValueError as error:
            raise ValueError(
                f"the prepared knowledge of edit {number} is damaged ({error}); revert it and make it again."
            ) from error
        if prepared is None or prepared.anchor_ids not in ((), anchor):  # some encoders keep no anchor
            new = self.model.prepare_behind(anchor, self.store.record(number).edit.statement).to_bytes(PRECISION)
            prepared = PreparedKnowledge.from_bytes(new)
            if data is None:
                with suppress(OSError):  # where nothing can be written, the next process computes it again
                    self.store.put_prepared(number, new)
        prepared = prepared.to(self.model.device, self.model.bank.dtype)
        return self.adapter.adapt(prepared) if self.adapter else prepared

    @contextmanager
    def around(
        self,
        rows: Sequence[PreparedKnowledge | None],
        input_ids: Tensor,
        attention_mask: Tensor | None,
        cache: Any,
    ) -> Iterator[Call]:
        """See :meth:`Editor.around`. The decision for a prompt also holds for all that is appended to its cache."""
        decisions = self._decisions.get(cache) if cache is not None else None
        if decisions is None or len(decisions) != len(rows):  # generate may keep several rows for one
            decisions = self._decide(unpadded(input_ids, attention_mask), cached=cache is not None)

        def remember(output: Any) -> Any:
            if (new_cache := cache_in(output)) is not None:
                self._decisions[new_cache] = decisions
            return output

        # Edits stand where the row's own knowledge stands.
        behind = [row.anchor_ids if row is not None else () for row in rows]
        edits = [self.joined(ids, own or anchor) for (ids, anchor), own in zip(decisions, behind, strict=True)]
        both = [[prepared for prepared in pair if prepared is not None] for pair in zip(rows, edits, strict=True)]
        yield Call([PreparedKnowledge.join(row) if row else None for row in both], remember)

    def _decide(self, inputs: Sequence[tuple[int, ...]], cached: bool) -> Decisions:
        """Decide for inputs, or for what follows a cache."""
        ids = self.which(input_texts(self.model.need_prompter(), inputs))
        anchors = self.model.anchors_of(inputs) if any(ids) and not cached else [self.model.anchor] * len(inputs)
        return list(zip(ids, anchors, strict=True))


def make_store(model: DiekaeModel, folder: str | Path | None) -> EditStore:
    """Open the store of a model's edits; see :class:`EditDatabase`."""
    return EditStore(folder, fingerprint(model.decoder), model.bank.fingerprint())


def input_texts(prompter: Prompter, inputs: Sequence[tuple[int, ...]]) -> list[str]:
    """Return the text of each input, given its tokens, without what its format puts around it."""
    names = [name for name in FORMATS if name != "chat" or prompter.can_chat()]
    wraps = [wrapping(name, prompter.tokenizer) for name in reversed(names)]
    texts = []
    for ids, anchor in zip(inputs, prompter.anchors_of(inputs), strict=True):
        text = str(prompter.tokenizer.decode(list(ids[len(anchor) :])))
        for wrap in wraps:
            after = wrap.after.rstrip(" ")
            if text.startswith(wrap.before) and text.endswith(after):
                text = text[len(wrap.before) : len(text) - len(after)]
                break
        texts.append(text.strip())
    return texts
