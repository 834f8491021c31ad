"""Training data: prompts that the decoder reads each time, or what it makes of them, collected once and kept on disk.

Shapes: N encoders, B rows, K knowledge tokens, T columns of x, W decoder width.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from diekae.data.prompt import IGNORED, Batch, Prompt, collate
from diekae.files import write_atomically

LAYOUT = 4
"""Version of the cache's files."""
SHARD = 32
"""Examples of one file, and of one pass of the decoder while collecting."""


class PromptDataset(Dataset[Prompt]):
    """Prompts, laid out batch by batch."""

    def __init__(self, prompts: Sequence[Prompt], *, scope: str, anchor: str) -> None:
        """Keep the prompts and how they are laid out."""
        self.prompts, self.scope, self.anchor = prompts, scope, anchor
        self.lengths = [_length(prompt) for prompt in prompts]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.prompts)

    def __getitem__(self, index: int) -> Prompt:
        """Return one prompt."""
        return self.prompts[index]

    def collate(self, prompts: Sequence[Prompt]) -> Batch:
        """Lay out a batch."""
        return collate(prompts, scope=self.scope, anchor=self.anchor)


class CachedDataset(Dataset[dict[str, Tensor]]):
    """What an objective keeps, collected once, read from memory-mapped safetensors, each example without padding."""

    def __init__(self, folder: Path, places: Sequence[int], lengths: Sequence[int]) -> None:
        """Open a finished cache; ``places`` says where on disk each example lies, ``lengths`` how long each is."""
        self.folder, self.places, self.lengths = folder, places, lengths
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one example's tensors."""
        shard, place = divmod(self.places[index], SHARD)
        if shard not in self._open:
            self._open[shard] = safe_open(str(_shard(self.folder, shard)), framework="pt")
        names = [name for name in _FIELDS if f"{place}.{name}" in self._open[shard].keys()]  # noqa: SIM118
        return {name: self._open[shard].get_tensor(f"{place}.{name}") for name in names}

    def collate(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Pad a batch, as :meth:`diekae.training.objectives.Objective.keep` made it."""
        batch = {}
        masks = {"knowledge_mask": "knowledge_ids", "input_mask": "input_ids", "anchor_mask": ANCHOR}
        for mask, name in masks.items():
            if name in items[0]:
                lengths = [item[name].shape[1 if name == ANCHOR else 0] for item in items]
                batch[mask] = _pad([torch.ones(length, dtype=torch.bool) for length in lengths])
        for name in items[0]:
            rows = [item[name] for item in items]
            if name == TEACHER:
                batch[name] = torch.cat(rows)
            elif rows[0].ndim == 3:  # [N, length, W]
                batch[name] = _pad([row.transpose(0, 1) for row in rows]).permute(2, 0, 1, 3)
            else:
                batch[name] = _pad(rows, IGNORED if name == LABELS else 0)
        return batch


LABELS, TEACHER, ANCHOR = "labels", "teacher", "anchor_states"
_ALONG_KNOWLEDGE = ("knowledge_ids", "knowledge_states")
_ALONG_INPUT = ("input_ids", "receives", LABELS, "states", "targets")
_FIELDS = (*_ALONG_KNOWLEDGE, *_ALONG_INPUT, ANCHOR, TEACHER)
"""What may be kept of an example; an objective keeps some of it."""


def collect_to_disk(
    folder: Path,
    dataset: PromptDataset,
    gather: Callable[[Batch], Mapping[str, Tensor]],
    *,
    key: dict[str, Any],
    limit_gb: float,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> CachedDataset:
    """Collect what is kept of all examples, once; a cache that was cut off goes on where it stopped.

    Args:
        folder: Holds one subfolder for each key.
        dataset: The prompts.
        gather: Runs the decoder on a batch; see :meth:`diekae.training.objectives.Objective.keep`.
        key: What comes of it, besides the prompts, depends on this (decoder's fingerprint, layers, site, …).
        limit_gb: Most that the cache may take on disk.
        progress: Called with examples done and in all.

    Raises:
        ValueError: The cache would pass the limit.
    """
    name = hashlib.sha256(json.dumps({**key, "layout": LAYOUT}, sort_keys=True).encode())
    for prompt in dataset.prompts:
        name.update(repr((prompt.anchor, prompt.knowledge, prompt.input, prompt.target)).encode())
    home = folder / name.hexdigest()[:16]
    home.mkdir(parents=True, exist_ok=True)
    write_atomically(home / "key.json", json.dumps(key, indent=2, sort_keys=True))
    # Like lengths together: padding is work for the decoder. Where an example lies is then not where it stands.
    lengths = dataset.lengths
    order = sorted(range(len(dataset)), key=lambda index: lengths[index])
    done = size = 0
    for start in range(0, len(order), SHARD):
        path, rows = _shard(home, start // SHARD), order[start : start + SHARD]
        if not _is_whole(path, len(rows)):
            prompts = [dataset.prompts[index] for index in rows]
            write_atomically(path, save(_unpadded(gather(dataset.collate(prompts)), len(prompts))))
        size += path.stat().st_size
        done += sum(lengths[index] for index in rows)
        if (expected := size * sum(lengths) / done) > limit_gb * 1e9:
            shutil.rmtree(home)
            raise ValueError(
                f"the cache would take {expected / 1e9:.1f} GB, more than cache_limit_gb={limit_gb}; raise the limit, "
                "or train on fewer layers, shorter knowledge or no cache."
            )
        progress(min(len(order), start + SHARD), len(order))
    places = [0] * len(order)
    for place, index in enumerate(order):
        places[index] = place
    return CachedDataset(home, places, lengths)


def _length(prompt: Prompt) -> int:
    """Return the tokens of both runs."""
    return len(prompt.knowledge) + 2 * (len(prompt.input) + len(prompt.target))


def _unpadded(found: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Cut a padded batch into its examples, states in bf16."""
    lengths = dict.fromkeys(_ALONG_KNOWLEDGE, found["knowledge_mask"].sum(1).tolist())
    lengths |= dict.fromkeys(_ALONG_INPUT, found["input_mask"].sum(1).tolist())
    if ANCHOR in found:
        lengths[ANCHOR] = found["anchor_mask"].sum(1).tolist()
    tensors: dict[str, Tensor] = {}
    for name in _FIELDS:
        if name not in found:
            continue
        if name == TEACHER:  # fp16: logits are small, and bf16 would round what is distilled
            scored = (found[LABELS] != IGNORED).sum(1).tolist()
            rows = list(found[name].to(torch.float16).split(scored))
        elif found[name].ndim == 4:
            rows = [found[name][:, row, : lengths[name][row]].to(torch.bfloat16) for row in range(count)]
        else:
            rows = [found[name][row, : lengths[name][row]] for row in range(count)]
        tensors |= {f"{row}.{name}": value.to("cpu").contiguous().clone() for row, value in enumerate(rows)}
    return tensors


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def _is_whole(path: Path, count: int) -> bool:
    """Tell whether a shard is there with all its examples."""
    if not path.is_file():
        return False
    try:
        with safe_open(str(path), framework="pt") as file:
            names: list[str] = file.keys()
    except SafetensorError:
        return False
    return sum(name.endswith(".input_ids") for name in names) == count


def _pad(rows: Sequence[Tensor], value: int = 0) -> Tensor:
    return pad_sequence(list(rows), batch_first=True, padding_value=value)
