"""The mechanism ``memory``: an edit is knowledge, read once by the trained bank, injected where the gate opens for it.

Nothing is trained for an edit, and where the gate stays shut the decoder's output is the bare one bit for bit.

Shapes: B rows, L columns.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diekae.data.prompt import FORMATS, Prompter, wrapping
from diekae.edit.adapter import EditAdapter
from diekae.edit.edit import Edit, make_edit
from diekae.edit.gate import Entry, Gate
from diekae.edit.store import EditStore, Record
from diekae.editor import Call, Editor
from diekae.fingerprint import fingerprint
from diekae.knowledge import Knowledge, PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.store.blob import pack, unpack_bytes

# `list` means the method inside the class below.
Pairs = list[tuple[Record, Record]]
Spoken = list[list[int]]
Memories = list[PreparedKnowledge | None]
READY = 512
"""Memories kept ready for use; others are read from the store when they are asked for."""
BATCH = 16
"""Statements that the bank reads at once."""


class Edits(Editor):
    """Edits as knowledge: listed, reverted and saved one by one, in force as soon as they are made."""

    mechanism = "memory"

    def __init__(self, model: DiekaeModel, store: EditStore, gate: Gate, adapter: EditAdapter | None = None) -> None:
        """Take up the edits of a store.

        Args:
            model: Decoder and bank, which the store must have been made for.
            store: Where the edits are.
            gate: Decides which speak.
            adapter: Makes an edit's memory of a document's; None leaves it.
        """
        self.store, self.gate, self.adapter = store, gate, adapter
        self._outside = {"model": model}
        self._version: tuple[int, int] | None = None
        self._ready: OrderedDict[int, PreparedKnowledge] = OrderedDict()
        self._decided: weakref.WeakKeyDictionary[Any, list[list[int]]] = weakref.WeakKeyDictionary()

    @property
    def model(self) -> DiekaeModel:
        """Return the model that is edited."""
        return self._outside["model"]

    def __repr__(self) -> str:
        """Say on one line where the edits are and what decides which of them speak."""
        return f"Edits({self.store!r}, gate {self.gate.name!r}{'' if self.adapter is None else ', adapter'})"

    def to(self, device: torch.device) -> None:
        """See :meth:`Editor.to`."""
        self._ready.clear()
        self.gate.to(device)
        if self.adapter is not None:
            self.adapter.to(device)

    def add(self, edits: Sequence[Edit | Mapping[str, Any]], *, progress: Progress = silent) -> list[Record]:
        """Make edits, each one whole or not at all; they are in force from here on.

        An edit of the same prompt and subject supersedes the one before. All are checked before the first is made.

        Args:
            edits: Edits, or dictionaries of a known layout.
            progress: Told how far it is.

        Raises:
            ValueError: An edit is not possible, occurs twice, or is there already.
        """
        made = [edit if isinstance(edit, Edit) else make_edit(edit) for edit in edits]
        self._check(made)
        records = []
        for number, edit in enumerate(made, 1):
            records.append(self.store.add(edit))
            progress("writing edits", number, len(made))
        self.prepare(progress=progress)
        return records

    def _check(self, edits: Sequence[Edit]) -> None:
        seen: dict[tuple[Any, str], int] = {}
        for number, edit in enumerate(edits):
            said = (edit.fact, edit.target.strip())
            if said in seen or (twin := self.store.duplicate(edit)) is not None:
                what = f"edit {seen[said] + 1} of the same list" if said in seen else f"edit {twin}, which is in force"
                raise ValueError(
                    f"edit {number + 1}, {edit.prompt!r} → {edit.target!r}, says the same as {what}; leave one of them "
                    "out. Nothing was written."
                )
            seen[said] = number

    def prepare(self, *, progress: Progress = silent) -> None:
        """Read the statements of live edits that have no memory yet, as after a process that was killed meanwhile."""
        self.refresh(progress)
        missing = [self.store.record(number) for number in self.store.without_prepared()]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            all_prepared = self.model.prepare_many([record.edit.statement for record in batch], batch_size=BATCH)
            for record, prepared in zip(batch, all_prepared, strict=True):
                self.store.put_prepared(record.id, _bytes(prepared))
            progress("reading statements", min(len(missing), start + BATCH), len(missing))
        self._version = self.store.version()  # memories change nothing that the gate knows

    def list(self, *, every: bool = False) -> list[Record]:
        """Return the edits in force, or with ``every`` superseded and reverted ones too."""
        return self.store.records(every=every)

    def revert(self, number: int) -> Record | None:
        """Take an edit back: the decoder answers as if it had never been made; see :meth:`EditStore.revert`.

        Raises:
            ValueError: There is no such edit, or it was reverted before.
        """
        return self.store.revert(number)

    def conflicts(self) -> Pairs:
        """Return pairs of live edits, older first, that seem to say different things of one fact in other words."""
        self.refresh()
        records = {record.id: record for record in self.store.records()}
        by_name: dict[str, list[Entry]] = {}
        found = []
        for entry in self.entries:
            kin = {other.id: other for name in entry.edit.names for other in by_name.get(name, [])}
            found += [(records[n], records[entry.id]) for n in self.gate.conflicts(entry, list(kin.values()))]
            for name in entry.edit.names:
                by_name.setdefault(name, []).append(entry)
        return found

    def save(self, folder: str | Path) -> None:
        """Write all edits into a folder, which :meth:`DiekaeModel.load_edits` reads.

        Raises:
            FileExistsError: The folder holds other edits.
        """
        self.store.copy_to(folder)

    def refresh(self, progress: Progress = silent) -> None:
        """Tell the gate of what this process or another has changed in the store."""
        version = self.store.version()
        if version == self._version:
            return
        records, gate = self.store.records(), self.gate
        known = self.store.vectors(gate.fingerprint) if gate.width else {}
        fresh = [record for record in records if gate.width and record.id not in known]
        if fresh:
            vectors = gate.encode([record.edit for record in fresh], progress)
            rows = [(record.id, vector.tobytes()) for record, vector in zip(fresh, vectors, strict=True)]
            self.store.put_vectors(gate.fingerprint, rows)
            known |= dict(rows)
            version = self.store.version()
        self.entries = [Entry(r.id, r.edit, np.frombuffer(known.get(r.id, b""), np.float32)) for r in records]
        gate.tell(self.entries)
        self._version = version

    entries: Sequence[Entry] = ()
    """The live edits as the gate knows them."""

    def which(self, texts: Sequence[str]) -> Spoken:
        """Return the ids of the edits that speak to each text, none where the gate stays shut."""
        self.refresh()
        return self.gate.open(texts) if self.entries else [[] for _ in texts]

    def knowledge(self, texts: Sequence[str]) -> Memories:
        """Return what is injected for each text; None where the gate stays shut."""
        return [self.joined(ids) for ids in self.which(texts)]

    def joined(self, ids: Sequence[int]) -> PreparedKnowledge | None:
        """Return what some edits inject together; None for none."""
        return PreparedKnowledge.join([self._prepared(number) for number in ids]) if ids else None

    def _prepared(self, number: int) -> PreparedKnowledge:
        """Return an edit's memory, ready for use."""
        if number not in self._ready:
            data = self.store.prepared(number)
            if data is None:
                data = _bytes(self.model.prepare(self.store.record(number).edit.statement))
                self.store.put_prepared(number, data)
            prepared = _prepared(data, number).to(self.model.device, self.model.bank.dtype)
            self._ready[number] = self.adapter.adapt(prepared) if self.adapter else prepared
        self._ready.move_to_end(number)
        while len(self._ready) > READY:
            self._ready.popitem(last=False)
        return self._ready[number]

    @contextmanager
    def around(
        self, knowledge: Knowledge, input_ids: Tensor, attention_mask: Tensor | None, cache: Any
    ) -> Iterator[Call]:
        """See :meth:`Editor.around`. What was decided for a prompt holds for what is appended to its cache."""
        decided = self._decided.get(cache) if cache is not None else None
        if decided is None:
            decided = self.which(texts_of(self.model.need_prompter(), input_ids, attention_mask))

        def keep(output: Any) -> Any:
            if (kept := getattr(output, "past_key_values", None)) is not None:
                self._decided[kept] = decided
            return output

        all_prepared = [self.joined(ids) for ids in decided]
        if not any(prepared is not None for prepared in all_prepared):
            yield Call(knowledge, keep)
            return
        given = self.model.prepare_rows(knowledge, len(all_prepared))
        pairs = zip(given, all_prepared, strict=True)
        both = [[prepared for prepared in pair if prepared is not None] for pair in pairs]
        yield Call([PreparedKnowledge.join(row) if row else None for row in both], keep)


def texts_of(prompter: Prompter, input_ids: Tensor, attention_mask: Tensor | None) -> list[str]:
    """Return what each row of a batch asks: its text without anchor, padding and the words of its format."""
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
    rows = [ids[kept.bool()].tolist() for ids, kept in zip(input_ids, mask, strict=True)]
    return [inner_text(prompter, str(prompter.tokenizer.decode(row))) for row in rows]


def inner_text(prompter: Prompter, text: str) -> str:
    """Take away what the formats put around an input; it begins with its own format's anchor, or with the bank's."""
    own = wrapping(prompter.default_format, prompter.tokenizer).anchor
    for name in reversed(FORMATS):
        if name == "chat" and not prompter.tokenizer.chat_template:
            continue
        wrap = wrapping(name, prompter.tokenizer)
        after = wrap.after.rstrip(" ")
        for before in (wrap.anchor + wrap.before, own + wrap.before):
            if text.startswith(before) and text.endswith(after):
                return text[len(before) : len(text) - len(after)].strip()
    return text.strip()


def make_store(model: DiekaeModel, folder: str | Path | None) -> EditStore:
    """Open the store of a model's edits; see :class:`EditStore`."""
    return EditStore(folder, fingerprint(model.decoder), model.bank.fingerprint())


def _bytes(prepared: PreparedKnowledge) -> bytes:
    """Return a memory as safetensors, its floats in bf16: half the size, and more than its keys need."""
    return pack(prepared, "bf16")


def _prepared(data: bytes, number: int) -> PreparedKnowledge:
    try:
        return unpack_bytes(data)
    except ValueError as error:
        raise ValueError(f"the memory of edit {number} is damaged ({error}); revert it and make it again.") from error
