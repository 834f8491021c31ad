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
from diekae.knowledge import Knowledge, PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent

EditIds = list[list[int]]
"""Ids of edits, for each text. (Inside the class below, `list` means its method.)"""
CACHED_EDITS = 512
"""Edits whose prepared knowledge is cached on the device; that of others is read from the store when it is needed."""
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
        self._cache: OrderedDict[int, PreparedKnowledge] = OrderedDict()
        self._decisions: weakref.WeakKeyDictionary[Any, EditIds] = weakref.WeakKeyDictionary()
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
        return [self.joined(ids) for ids in self.which(texts)]

    def joined(self, ids: Sequence[int]) -> PreparedKnowledge | None:
        """Return what some edits inject together; None for no edits."""
        return PreparedKnowledge.join([self._prepared(number) for number in ids]) if ids else None

    def _prepared(self, number: int) -> PreparedKnowledge:
        """Return what one edit injects, from the cache if it is there."""
        prepared = self._cache.get(number)
        if prepared is None:
            prepared = self._read_prepared(number)
        with self._lock:
            self._cache[number] = prepared
            self._cache.move_to_end(number)
            while len(self._cache) > CACHED_EDITS:
                self._cache.popitem(last=False)
        return prepared

    def _read_prepared(self, number: int) -> PreparedKnowledge:
        """Return what one edit injects, from the store if it is there."""
        data = self.store.prepared(number)
        if data is None:
            data = self.model.prepare(self.store.record(number).edit.statement).to_bytes(PRECISION)
            with suppress(OSError):  # where nothing can be written, the next process computes it again
                self.store.put_prepared(number, data)
        try:
            prepared = PreparedKnowledge.from_bytes(data).to(self.model.device, self.model.bank.dtype)
        except ValueError as error:
            raise ValueError(
                f"the prepared knowledge of edit {number} is damaged ({error}); revert it and make it again."
            ) from error
        return self.adapter.adapt(prepared) if self.adapter else prepared

    @contextmanager
    def around(
        self, knowledge: Knowledge, input_ids: Tensor, attention_mask: Tensor | None, cache: Any
    ) -> Iterator[Call]:
        """See :meth:`Editor.around`. The decision for a prompt also holds for all that is appended to its cache."""
        ids = self._decisions.get(cache) if cache is not None else None
        if ids is None:
            ids = self.which(input_texts(self.model.need_prompter(), input_ids, attention_mask))

        def remember(output: Any) -> Any:
            if (new_cache := cache_in(output)) is not None:
                self._decisions[new_cache] = ids
            return output

        edits = [self.joined(row) for row in ids]
        if not any(edit is not None for edit in edits):
            yield Call(knowledge, remember)
            return
        pairs = zip(self.model.prepare_rows(knowledge, len(edits)), edits, strict=True)
        rows = [[prepared for prepared in pair if prepared is not None] for pair in pairs]
        yield Call([PreparedKnowledge.join(row) if row else None for row in rows], remember)


def make_store(model: DiekaeModel, folder: str | Path | None) -> EditStore:
    """Open the store of a model's edits; see :class:`EditDatabase`."""
    return EditStore(folder, fingerprint(model.decoder), model.bank.fingerprint())


def input_texts(prompter: Prompter, input_ids: Tensor, attention_mask: Tensor | None) -> list[str]:
    """Return the text of each row of ids [B, L]; the mask is 0 at padding, [B, L] or longer by what is cached."""
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
    rows = [ids[valid.bool()].tolist() for ids, valid in zip(input_ids, mask, strict=True)]
    return [inner_text(prompter, str(prompter.tokenizer.decode(row))) for row in rows]


def inner_text(prompter: Prompter, text: str) -> str:
    """Remove what a format puts around an input. The text begins with the anchor of its format, or of the bank's."""
    default_anchor = wrapping(prompter.default_format, prompter.tokenizer).anchor
    for name in reversed(FORMATS):
        if name == "chat" and not prompter.tokenizer.chat_template:
            continue
        wrap = wrapping(name, prompter.tokenizer)
        after = wrap.after.rstrip(" ")
        for before in (wrap.anchor + wrap.before, default_anchor + wrap.before):
            if text.startswith(before) and text.endswith(after):
                return text[len(before) : len(text) - len(after)].strip()
    return text.strip()
