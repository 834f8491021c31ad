"""Prepared knowledge: what a bank keeps of one or several documents, on its own, saveable, independent of any input.

Shapes: N encoders, S slots of K, a slots of the anchor, B rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diekae.encoders import KnowledgeBatch
from diekae.files import write_atomically

_ANCHOR, _PLACES = "anchor.", "places"


@dataclass(frozen=True)
class PreparedKnowledge:
    """The memory of one or several documents, for one bank."""

    tensors: dict[str, Tensor]
    """What the encoders keep of K, by name; each [N, S, …]."""
    position: int
    """Position at which x goes on after K, in tokens."""
    bank: str
    """Fingerprint of the bank that prepared it."""
    anchor: dict[str, Tensor] = field(default_factory=dict)
    """What they keep of the anchor, each [N, a, …]; empty where it is not kept. It does not count as a slot."""
    anchor_ids: tuple[int, ...] = ()
    """The anchor's tokens, with which every input that reads this begins."""
    places: Tensor | None = None
    """Positions of K's slots, int64 [S]: they end where x goes on; None where nobody reads them."""
    sharpness: float = 1.0
    """Factor of the keys once this is joined with other documents; 1 when it has been."""
    begin: int | None = None
    """Position of the first slot that the whole document had, before which its anchor stands; None where this is all
    of it, and ``places`` says so."""

    def __repr__(self) -> str:
        """Say on one line what it is; its numbers are many."""
        layers, kind = 0, "empty"
        for tensor in self.tensors.values():
            layers, kind = len(tensor), f"{tensor.dtype} on {tensor.device}".removeprefix("torch.")
        size = f"{len(self)} slots in {layers} layers, {self.nbytes / 1e6:.2f} MB, {kind}"
        return f"PreparedKnowledge({size}, bank {self.bank})"

    def __len__(self) -> int:
        """Return S, the number of slots."""
        return next(iter(self.tensors.values())).shape[1] if self.tensors else 0

    @property
    def nbytes(self) -> int:
        """Return the size in bytes."""
        return sum(tensor.nbytes for tensor in (*self.tensors.values(), *self.anchor.values()))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> PreparedKnowledge:
        """Return a copy on another device or in another floating-point type."""

        def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}

        places = None if self.places is None else self.places.to(device)
        return replace(self, tensors=moved(self.tensors), anchor=moved(self.anchor), places=places)

    @classmethod
    def join(cls, all_prepared: Sequence[PreparedKnowledge]) -> PreparedKnowledge:
        """Use several documents together; their order does not matter. They share the anchor of the longest.

        Raises:
            ValueError: There is none, or they are of different banks or were read behind different anchors.
        """
        if not all_prepared or len({prepared.bank for prepared in all_prepared}) != 1:
            raise ValueError(f"expected documents of one bank, got {sorted({p.bank for p in all_prepared})}.")
        if len(anchors := {prepared.anchor_ids for prepared in all_prepared}) != 1:
            raise ValueError(
                f"these documents were read behind different anchors ({sorted(anchors)}); prepare them in one format."
            )
        if len(all_prepared) == 1:
            return all_prepared[0]  # what is mapped from a file stays so
        all_prepared = [prepared._sharpened() for prepared in all_prepared]
        tensors = {name: torch.cat([m.tensors[name] for m in all_prepared], dim=1) for name in all_prepared[0].tensors}
        longest = max(all_prepared, key=lambda prepared: prepared.position)
        places = [prepared.places for prepared in all_prepared if prepared.places is not None]
        return replace(longest, tensors=tensors, places=torch.cat(places) if places else None)

    def take(self, columns: Sequence[int]) -> PreparedKnowledge:
        """Return some of the slots, at the places where they stand: what x is to read of a document."""
        index = torch.as_tensor(list(columns), dtype=torch.long, device=_device(self))
        tensors = {name: tensor.index_select(1, index) for name, tensor in self.tensors.items()}
        places = None if self.places is None else self.places[index]
        return replace(self, tensors=tensors, places=places, begin=self._begin())

    def _begin(self) -> int | None:
        if self.begin is not None or self.places is None or not len(self.places):
            return self.begin
        return int(self.places.min())

    def _sharpened(self) -> PreparedKnowledge:
        """Return what is joined with other documents."""
        if self.sharpness == 1:
            return self
        return replace(self, tensors={**self.tensors, "keys": self.tensors["keys"] * self.sharpness}, sharpness=1.0)

    def flatten(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all tensors by name, and all else as JSON values; :meth:`unflatten` takes both back."""
        tensors = {**self.tensors, **{_ANCHOR + name: tensor for name, tensor in self.anchor.items()}}
        if self.places is not None:
            tensors[_PLACES] = self.places
        info = {"position": self.position, "bank": self.bank, "anchor_ids": list(self.anchor_ids)}
        return tensors, {**info, "sharpness": self.sharpness, "begin": self.begin}

    @classmethod
    def unflatten(cls, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> PreparedKnowledge:
        """Build a memory of what :meth:`flatten` returned.

        Raises:
            KeyError, TypeError: Something is missing, or of another kind.
        """
        places = tensors.get(_PLACES)
        return cls(
            {n: t for n, t in tensors.items() if not n.startswith(_ANCHOR) and n != _PLACES},
            info["position"],
            info["bank"],
            {n.removeprefix(_ANCHOR): t for n, t in tensors.items() if n.startswith(_ANCHOR)},
            tuple(info["anchor_ids"]),
            places,
            info["sharpness"],
            info.get("begin"),
        )

    def save(self, path: str | Path) -> None:
        """Write to one safetensors file, whole or not at all."""
        tensors, info = self.flatten()
        tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        write_atomically(Path(path), save(tensors, {"diekae": json.dumps(info)}))

    @classmethod
    def load(cls, path: str | Path) -> PreparedKnowledge:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a saved memory, or is damaged.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no memory file at {str(path)!r}.")
        try:
            with safe_open(str(path), framework="pt") as file:
                info = json.loads((file.metadata() or {})["diekae"])
                return cls.unflatten({name: file.get_tensor(name) for name in file.keys()}, info)  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{str(path)!r} is not a memory saved by PreparedKnowledge.save, or is damaged: {error}"
            ) from error


def batch_knowledge(rows: Sequence[PreparedKnowledge | None]) -> KnowledgeBatch:
    """Pad the memories of a batch's rows to the longest; rows without knowledge have no slot.

    Args:
        rows: B memories of one bank, at least one of them not None.
    """
    given = [row for row in rows if row is not None]
    positions = torch.tensor([0 if row is None else row.position for row in rows], device=_device(given[0]))
    anchors = [None if row is None else row.anchor for row in rows]
    anchor = _batch(anchors, [None if row is None else _anchor_places(row) for row in rows], positions)
    places = [None if row is None else row.places for row in rows]
    return _batch([None if row is None else row.tensors for row in rows], places, positions, anchor)


def _anchor_places(prepared: PreparedKnowledge) -> Tensor | None:
    """Return where the anchor stands: before the first of K's slots."""
    if not prepared.anchor or prepared.places is None:
        return None
    length = len(prepared.anchor_ids)
    first = prepared._begin() or 0
    return torch.arange(first - length, first, device=prepared.places.device)


def _batch(
    rows: Sequence[dict[str, Tensor] | None],
    places: Sequence[Tensor | None],
    positions: Tensor,
    anchor: KnowledgeBatch | None = None,
) -> KnowledgeBatch | Any:
    """Pad slots of B rows, each [N, S, …] by name; None where no row has any name."""
    given = [row for row in rows if row]
    if not given:
        return None
    lengths = [next(iter(row.values())).shape[1] if row else 0 for row in rows]
    length = max(lengths)
    if all(row is given[0] for row in rows):  # one for all: nothing is copied
        tensors = {name: like[:, None].expand(-1, len(rows), *like.shape[1:]) for name, like in given[0].items()}
    else:
        tensors = {}
        for name, like in given[0].items():
            padded = like.new_zeros((like.shape[0], len(rows), length, *like.shape[2:]))
            for number, row in enumerate(rows):
                if row:
                    padded[:, number, : lengths[number]] = row[name].to(padded)
            tensors[name] = padded
    device = positions.device
    mask = torch.arange(length, device=device)[None] < torch.tensor(lengths, device=device)[:, None]
    stands = None
    if any(place is not None for place in places):
        stands = torch.zeros(len(rows), length, dtype=torch.long, device=device)
        for number, place in enumerate(places):
            if place is not None:
                stands[number, : len(place)] = place
    full = length > 0 and min(lengths) == length
    return KnowledgeBatch(tensors, mask, positions, full, stands, anchor)


def _device(prepared: PreparedKnowledge) -> torch.device:
    return next(iter(prepared.tensors.values())).device


Document = str | PreparedKnowledge
Knowledge = Document | Sequence[Document | Sequence[Document] | None] | None
"""One document for all rows; or a list with one entry a row: a document, a list of documents, or None."""


def rows_of(
    knowledge: Knowledge, rows: int, prepare: Callable[[str], PreparedKnowledge], bank: str, device: torch.device
) -> list[PreparedKnowledge | None]:
    """Return one memory, or None, for each row of a batch.

    Args:
        knowledge: What was given.
        rows: B.
        prepare: Reads a text.
        bank: Fingerprint of the bank that is to use the memories.
        device: Where they are needed.

    Raises:
        ValueError: The list does not have one entry a row, a row's list is empty, or a memory is of another bank.
        TypeError: Something is neither a text, a memory nor a list of these.
    """

    def prepared(row: Any) -> PreparedKnowledge | None:
        if row is None:
            return None
        if isinstance(row, str):
            return prepare(row)
        if isinstance(row, PreparedKnowledge):
            if row.bank != bank:
                raise ValueError(
                    f"this memory was prepared by bank {row.bank}, but this bank is {bank}; "
                    "prepare the knowledge again."
                )
            return row.to(device)
        if not isinstance(row, list | tuple):
            raise TypeError(_not_knowledge(row))
        found = [read for document in row if (read := prepared(document)) is not None]
        if not found:
            raise ValueError(
                f"a row's knowledge is the list {list(row)!r}; name a document, or give None for no knowledge."
            )
        return PreparedKnowledge.join(found)

    if knowledge is None or isinstance(knowledge, str | PreparedKnowledge):
        return [prepared(knowledge)] * rows
    if not isinstance(knowledge, list | tuple):
        raise TypeError(_not_knowledge(knowledge))
    if len(knowledge) != rows:
        raise ValueError(
            f"knowledge has {len(knowledge)} entries for {rows} rows; give one entry a row (a document, a list of "
            "documents, or None). Several documents for one row are a list inside the list."
        )
    return [prepared(row) for row in knowledge]


def _not_knowledge(value: object) -> str:
    advice = "; read the file first: path.read_text()" if isinstance(value, Path) else ""
    return f"knowledge is {value!r}; expected a text, what `prepare` returned, or a list of these, one a row{advice}."
