"""Prepared knowledge: what a bank keeps of one or several documents, on its own, saveable, independent of any input.

Shapes: N encoders, S slots, B rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diekae.encoders import MemoryBatch
from diekae.files import write_atomically


@dataclass(frozen=True)
class Memory:
    """The memory of one or several documents, for one bank."""

    tensors: dict[str, Tensor]
    """What the encoders keep, by name; each [N, S, …]."""
    position: int
    """Position at which x goes on after K, in tokens."""
    bank: str
    """Fingerprint of the bank that prepared it."""

    def __len__(self) -> int:
        """Return S, the number of slots."""
        return next(iter(self.tensors.values())).shape[1] if self.tensors else 0

    @property
    def nbytes(self) -> int:
        """Return the size in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Memory:
        """Return a copy on another device or in another floating-point type."""
        return Memory({k: v.to(device=device, dtype=dtype) for k, v in self.tensors.items()}, self.position, self.bank)

    @classmethod
    def join(cls, memories: Sequence[Memory]) -> Memory:
        """Use several documents together; their order does not matter.

        Raises:
            ValueError: There is none, or they are of different banks.
        """
        if not memories or len({memory.bank for memory in memories}) != 1:
            raise ValueError(f"expected memories of one bank, got {sorted({memory.bank for memory in memories})}.")
        if len(memories) == 1:
            return memories[0]  # what is mapped from a file stays so
        tensors = {name: torch.cat([m.tensors[name] for m in memories], dim=1) for name in memories[0].tensors}
        return cls(tensors, max(memory.position for memory in memories), memories[0].bank)

    def save(self, path: str | Path) -> None:
        """Write to one safetensors file, whole or not at all."""
        metadata = {"diekae": json.dumps({"position": self.position, "bank": self.bank})}
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self.tensors.items()}
        write_atomically(Path(path), save(tensors, metadata))

    @classmethod
    def load(cls, path: str | Path) -> Memory:
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
                return cls({name: file.get_tensor(name) for name in file.keys()}, info["position"], info["bank"])
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{str(path)!r} is not a memory saved by Memory.save, or is damaged: {error}") from error


def batch_memories(rows: Sequence[Memory | None]) -> MemoryBatch:
    """Pad the memories of a batch's rows to the longest; rows without knowledge have no slot.

    Args:
        rows: B memories of one bank, at least one of them not None.
    """
    given = [row for row in rows if row is not None]
    length = max(len(row) for row in given)
    device = next(iter(given[0].tensors.values())).device
    if all(row is given[0] for row in rows):  # one for all: nothing is copied
        views = {name: like[:, None].expand(-1, len(rows), *like.shape[1:]) for name, like in given[0].tensors.items()}
        filled = torch.ones(len(rows), length, dtype=torch.bool, device=device)
        return MemoryBatch(views, filled, torch.full((len(rows),), given[0].position, device=device), full=length > 0)
    tensors = {}
    for name, like in given[0].tensors.items():
        padded = like.new_zeros((like.shape[0], len(rows), length, *like.shape[2:]))
        for number, row in enumerate(rows):
            if row is not None:
                padded[:, number, : len(row)] = row.tensors[name].to(padded)
        tensors[name] = padded
    lengths = torch.tensor([0 if row is None else len(row) for row in rows], device=device)
    positions = torch.tensor([0 if row is None else row.position for row in rows], device=device)
    mask = torch.arange(length, device=device)[None] < lengths[:, None]
    return MemoryBatch(tensors, mask, positions, full=all(row is not None and len(row) == length for row in rows))


Document = str | Memory
Knowledge = Document | Sequence[Document | Sequence[Document] | None] | None
"""One document for all rows; or a list with one entry a row: a document, a list of documents, or None."""


def rows_of(
    knowledge: Knowledge, rows: int, prepare: Callable[[str], Memory], bank: str, device: torch.device
) -> list[Memory | None]:
    """Return one memory, or None, for each row of a batch.

    Args:
        knowledge: What was given.
        rows: B.
        prepare: Reads a text.
        bank: Fingerprint of the bank that is to use the memories.
        device: Where they are needed.

    Raises:
        ValueError: The list does not have one entry a row, a row's list is empty, or a memory is of another bank.
    """

    def memory(row: Document | Sequence[Document] | None) -> Memory | None:
        if row is None:
            return None
        if isinstance(row, str):
            return prepare(row)
        if isinstance(row, Memory):
            if row.bank != bank:
                raise ValueError(
                    f"this memory was prepared by bank {row.bank}, but this bank is {bank}; "
                    "prepare the knowledge again."
                )
            return row.to(device)
        found = [read for document in row if (read := memory(document)) is not None]
        if not found:
            raise ValueError(
                f"a row's knowledge is the list {list(row)!r}; name a document, or give None for no knowledge."
            )
        return Memory.join(found)

    if knowledge is None or isinstance(knowledge, str | Memory):
        return [memory(knowledge)] * rows
    if len(knowledge) != rows:
        raise ValueError(
            f"knowledge has {len(knowledge)} entries for {rows} rows; give one entry a row (a document, a list of "
            "documents, or None). Several documents for one row are a list inside the list."
        )
    return [memory(row) for row in knowledge]
