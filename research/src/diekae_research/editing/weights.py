"""Weight edits: encoders E(_, x) trained on the edits. All edits share them, so each change trains them anew."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diekae.edit.edit import Edit, make_edit
from diekae.edit.store import Record
from diekae.editor import Call, Editor
from diekae.files import write_atomically
from diekae.knowledge import Knowledge, PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.prepare import read_documents
from diekae.progress import Progress, silent
from diekae_research.editing.weight_training import WeightOptions, train_encoders

FILE = "weight-edits.json"


class WeightEdits(Editor):
    """Edits as encoders that read x alone."""

    def __init__(self, model: DiekaeModel, **options: Any) -> None:
        """Begin without edits.

        Args:
            model: The model that is edited; it needs a tokenizer.
            **options: Fields of :class:`WeightOptions`.

        Raises:
            ValueError: An option is not known.
        """
        known = [field.name for field in dataclasses.fields(WeightOptions)]
        if unknown := set(options) - set(known):
            raise ValueError(
                f"options {', '.join(sorted(unknown))} are not known; expected some of {', '.join(known)}."
            )
        self.options, self._outside = WeightOptions(**options), {"model": model}
        self.encoders: DiekaeModel | None = None
        self.log: list[dict[str, float]] = []
        self._records: list[Record] = []

    @property
    def model(self) -> DiekaeModel:
        """Return the model that is edited."""
        return self._outside["model"]

    def __repr__(self) -> str:
        """Return the number of edits and how they are trained."""
        options = f"preset {self.options.preset!r}, {self.options.epochs:g} epochs"
        return f"WeightEdits({len(self.list())} edits in force of {len(self._records)}, {options})"

    def to(self, device: torch.device) -> None:
        """See :meth:`Editor.to`."""
        if self.encoders is not None:
            self.encoders.to(device)

    def add(self, edits: Sequence[Edit | Mapping[str, Any]], *, progress: Progress = silent) -> list[Record]:
        """Train encoders on these edits and all earlier ones.

        Raises:
            ValueError: An edit is not possible, or exists already.
        """
        added = [edit if isinstance(edit, Edit) else make_edit(edit) for edit in edits]
        live = {record.edit.fact: record for record in self.list()}
        for edit in added:
            if edit.fact in live and live[edit.fact].edit.target == edit.target:
                raise ValueError(f"{edit.prompt!r} → {edit.target!r} is edited already; leave it out.")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        records = list(self._records)
        for edit in added:
            for place, record in enumerate(records):
                if record.state == "live" and record.edit.fact == edit.fact:
                    records[place] = dataclasses.replace(record, state="superseded")
            records.append(Record(len(records) + 1, edit, "live", now))
        self._train(records, progress)
        return records[len(records) - len(added) :]

    def list(self, *, every: bool = False) -> list[Record]:
        """Return the edits in force, or with ``every`` all there ever were."""
        return [record for record in self._records if every or record.state == "live"]

    def revert(self, number: int) -> Record:
        """Revert an edit: the encoders are trained anew on the others.

        Raises:
            ValueError: There is no such edit in force.
        """
        records = list(self._records)
        for place, record in enumerate(records):
            if record.id == number and record.state == "live":
                records[place] = dataclasses.replace(record, state="reverted")
                self._train(records, silent)
                return records[place]
        raise ValueError(f"no edit {number} is in force; `list` shows those that are.")

    def save(self, folder: str | Path) -> None:
        """Write the encoders and the list of edits; :func:`load_weight_edits` reads them.

        Raises:
            ValueError: There are no edits.
        """
        if self.encoders is None:
            raise ValueError("there are no edits to save; make some first.")
        self.encoders.save_pretrained(Path(folder) / "bank")
        content = {"options": dataclasses.asdict(self.options), "edits": [dataclasses.asdict(r) for r in self._records]}
        write_atomically(Path(folder) / FILE, json.dumps(content, indent=1))

    @contextmanager
    def around(
        self, knowledge: Knowledge, input_ids: Tensor, attention_mask: Tensor | None, cache: Any
    ) -> Iterator[Call]:
        """See :meth:`Editor.around`: E(_, x) is added to every call.

        Raises:
            ValueError: Knowledge is given to a bank that cannot run beside these encoders.
        """
        if self.encoders is None:
            yield Call(knowledge)
            return
        self._check_together(knowledge)
        done = int(cache.get_seq_length()) if cache is not None else 0
        with self.encoders.behind(no_knowledge(self.encoders), input_ids, attention_mask, done=done):
            yield Call(knowledge)

    def _check_together(self, knowledge: Knowledge) -> None:
        """Check that knowledge can be given beside these encoders.

        Two banks that both keep what they read of x, in attention or in the cache, cannot run together.

        Raises:
            ValueError: They cannot.
        """
        assert self.encoders is not None
        rows = knowledge if isinstance(knowledge, list | tuple) else [knowledge]
        reads = self.encoders.bank.encoder.reads
        if reads == "states" or reads != self.model.bank.encoder.reads or all(row is None for row in rows):
            return
        name = self.encoders.config.encoder
        raise ValueError(
            f"weight edits of encoder={name!r} cannot be in force while knowledge is given to a bank of the same "
            "encoder: both keep what they read of x in the same place. Edit with `model.edit`, make the weight edits "
            "with preset='default', or call without knowledge."
        )

    def _train(self, records: Sequence[Record], progress: Progress) -> None:
        """Train on the live ones of some records, then put them in force."""
        edits = [record.edit for record in records if record.state == "live"]
        if edits:
            self.encoders, self.log = train_encoders(self.model, edits, self.options, progress)
        else:
            self.encoders = None
        self._records = [*records]


def no_knowledge(model: DiekaeModel) -> PreparedKnowledge:
    """Return prepared knowledge of an empty K, with which a bank is E(_, x)."""
    (prepared,) = read_documents(model.attached, model.anchor, [()])
    return prepared


def load_weight_edits(model: DiekaeModel, folder: str | Path) -> WeightEdits:
    """Read what :meth:`WeightEdits.save` wrote.

    Raises:
        FileNotFoundError: The folder holds no such edits.
        ValueError: They are damaged, or of another decoder.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{str(folder)!r} holds no edits: {FILE} is missing; give what `edits.save` wrote.")
    try:
        content = json.loads(path.read_text())
        edits = WeightEdits(model, **content["options"])
        edits._records = [Record(**{**row, "edit": Edit(**row["edit"])}) for row in content["edits"]]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error!r}); make the edits anew.") from error
    edits.encoders = DiekaeModel.from_pretrained(Path(folder) / "bank", model.decoder, model.tokenizer)
    return edits
