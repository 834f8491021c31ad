"""Prepared knowledge: what a bank keeps of one or several documents, independent of any input.

Shapes: N encoders, M layers of the decoder without an encoder, S slots of K, a slots of the anchor.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diekae.files import as_path, read_once, sha256_of, write_atomically
from diekae.knowledge.codec import DAMAGED, DigestError, decode, decode_file, encode

_ANCHOR, _BARE_ANCHOR, _POSITIONS = "anchor.", "anchor.bare.", "positions"


@dataclass(frozen=True)
class PreparedKnowledge:
    """What one bank keeps of one or several documents.

    Example:
        >>> prepared = model.prepare("The bridge opened in 1932.")
        >>> prepared.save("bridge.safetensors")
        >>> model(**model.tokenize("When did it open?"), knowledge=PreparedKnowledge.load("bridge.safetensors"))
    """

    tensors: dict[str, Tensor]
    """Slots of K by name, each [N, S, …]."""
    token_count: int
    """Tokens of K; of several documents, those of the longest. Encoders that count positions from K's beginning put
    x's first token here."""
    bank: str
    """Fingerprint of the bank."""
    anchor: dict[str, Tensor] = field(default_factory=dict)
    """Slots of the anchor by name, each [N, a, …]; empty if the encoder keeps none. They do not count as slots of K."""
    anchor_ids: tuple[int, ...] = ()
    """Tokens of the anchor. Every input that reads this knowledge begins with them."""
    bare_anchor: dict[str, Tensor] = field(default_factory=dict)
    """The decoder's own keys and values of the anchor in its layers without an encoder, each [M, a, …]. With them, x
    need not read its own anchor. Empty if there are no such layers, or if x must read it."""
    positions: Tensor | None = None
    """Positions of K's slots, which end where x begins; int64 [S]. None if the encoder does not use positions."""
    begin: int | None = None
    """Position of the whole document's first slot; the anchor stands before it. None if no slot was left out, because
    ``positions`` then contains it."""

    def __repr__(self) -> str:
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
        tensors = (*self.tensors.values(), *self.anchor.values(), *self.bare_anchor.values())
        return sum(tensor.nbytes for tensor in tensors)

    @property
    def device(self) -> torch.device:
        """Return the device of the slots."""
        return next(iter(self.tensors.values())).device

    @property
    def anchor_positions(self) -> Tensor | None:
        """Return the positions of the anchor's slots, int64 [a]; None if there are none, or positions are not used."""
        if not self.anchor or self.positions is None:
            return None
        first = self._first_position() or 0
        return torch.arange(first - len(self.anchor_ids), first, device=self.positions.device)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> PreparedKnowledge:
        """Return a copy on another device or in another floating-point type."""

        def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}

        positions = None if self.positions is None else self.positions.to(device)
        anchor, bare_anchor = moved(self.anchor), moved(self.bare_anchor)
        return replace(self, tensors=moved(self.tensors), anchor=anchor, bare_anchor=bare_anchor, positions=positions)

    @classmethod
    def join(cls, all_prepared: Sequence[PreparedKnowledge]) -> PreparedKnowledge:
        """Join documents that are used together. Their order does not matter; they share the anchor of the longest.

        Raises:
            ValueError: There is no document, or they are of different banks or anchors.
        """
        check_together(all_prepared)
        if len(all_prepared) == 1:
            return all_prepared[0]  # not copied: its tensors may be memory-mapped
        tensors = {name: torch.cat([p.tensors[name] for p in all_prepared], dim=1) for name in all_prepared[0].tensors}
        longest = max(all_prepared, key=lambda prepared: prepared.token_count)
        positions = [prepared.positions for prepared in all_prepared if prepared.positions is not None]
        return replace(longest, tensors=tensors, positions=torch.cat(positions) if positions else None)

    def take(self, columns: Sequence[int]) -> PreparedKnowledge:
        """Return only some of the slots; they keep their positions in the document.

        Args:
            columns: Numbers of the slots, from 0, each once.

        Raises:
            ValueError: A number is that of no slot, or occurs twice.
        """
        numbers = [operator.index(column) for column in columns]
        if len(set(numbers)) < len(numbers) or not all(0 <= number < len(self) for number in numbers):
            raise ValueError(f"columns={numbers} must be different numbers of slots, from 0 to {len(self) - 1}.")
        index = torch.as_tensor(numbers, dtype=torch.long, device=self.device)
        tensors = {name: tensor.index_select(1, index) for name, tensor in self.tensors.items()}
        positions = None if self.positions is None else self.positions[index]
        return replace(self, tensors=tensors, positions=positions, begin=self._first_position())

    def _first_position(self) -> int | None:
        """Return the position of the whole document's first slot; None if it is unknown."""
        if self.begin is not None or self.positions is None or not len(self.positions):
            return self.begin
        return int(self.positions.min())

    def to_bytes(self, precision: str = "exact") -> bytes:
        """Return the content of a file; see :meth:`save`."""
        tensors = {**self.tensors, **{_ANCHOR + name: tensor for name, tensor in self.anchor.items()}}
        tensors |= {_BARE_ANCHOR + name: tensor for name, tensor in self.bare_anchor.items()}
        if self.positions is not None:
            tensors[_POSITIONS] = self.positions
        info: dict[str, Any] = {"position": self.token_count, "bank": self.bank, "anchor_ids": list(self.anchor_ids)}
        info["begin"] = self.begin
        # The anchor's few slots hold the attention sink, so they stay exact.
        return encode(tensors, info, precision, quantized=tuple(self.tensors))

    @classmethod
    def _restore(cls, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> PreparedKnowledge:
        """Return the prepared knowledge that :meth:`to_bytes` encoded; KeyError or TypeError if it did not."""
        slots = {name: tensor for name, tensor in tensors.items() if name != _POSITIONS}
        parts: list[dict[str, Tensor]] = []
        for prefix in (_BARE_ANCHOR, _ANCHOR):  # the longer prefix first
            parts.append({n.removeprefix(prefix): slots.pop(n) for n in list(slots) if n.startswith(prefix)})
        return cls(
            tensors=slots,
            token_count=info["position"],
            bank=info["bank"],
            anchor=parts[1],
            bare_anchor=parts[0],  # empty in files of older versions
            anchor_ids=tuple(info["anchor_ids"]),
            positions=tensors.get(_POSITIONS),
            begin=info.get("begin"),  # absent in files of older versions
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> PreparedKnowledge:
        """Return the prepared knowledge from the result of :meth:`to_bytes`.

        Raises:
            ValueError: The bytes are not prepared knowledge, or are damaged.
        """
        try:
            return cls._restore(*decode(data))
        except DAMAGED as error:
            raise ValueError(f"no prepared knowledge, or damaged: {error}") from error

    def save(self, path: str | Path, precision: str = "exact") -> None:
        """Write one safetensors file. A failure leaves the old file as it was.

        Args:
            path: The file.
            precision: ``exact``; ``bf16``; or ``int8``, a quarter of the size of fp32.
        """
        write_atomically(as_path(path), self.to_bytes(precision))

    @classmethod
    def load(cls, path: str | Path, *, sha256: str | None = None) -> PreparedKnowledge:
        """Read a file that :meth:`save` wrote. Its tensors are memory-mapped, except those in int8.

        The content is compared with its digest when a process first reads the file, and again when the file's size,
        times or inode have changed.

        Args:
            path: The file.
            sha256: Digest that the whole file must have, in hexadecimal. By default, the file's own digest of its
                content must fit; files of older versions have none.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not prepared knowledge, or is damaged.
        """
        if not as_path(path).is_file():
            raise FileNotFoundError(f"no file of prepared knowledge at {str(path)!r}.")
        try:
            if sha256 is not None and read_once(Path(path), sha256_of) != sha256:
                raise DigestError("it does not have the digest that was written")
            return cls._restore(*decode_file(Path(path), check=sha256 is None))
        except DAMAGED as error:
            raise ValueError(f"{str(path)!r} is not prepared knowledge, or is damaged: {error}") from error


def check_together(all_prepared: Sequence[PreparedKnowledge]) -> None:
    """Refuse what cannot be read together: no document, or documents of different banks or anchors, by a ValueError."""
    if not all_prepared or len({prepared.bank for prepared in all_prepared}) != 1:
        raise ValueError(f"expected documents of one bank, got {sorted({p.bank for p in all_prepared})}.")
    if len(anchors := {prepared.anchor_ids for prepared in all_prepared}) != 1:
        raise ValueError(
            f"these documents were read after different anchors ({sorted(anchors)}); prepare them in one format."
        )
