"""Training data as what the decoder computes from prompts: computed once, kept on disk.

Shapes: N encoders, B rows, K knowledge tokens, T columns of x, W decoder width.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from diekae.data.batch import IGNORED, Batch, to_device
from diekae.files import make_folder, write_atomically
from diekae.fingerprint import fingerprint
from diekae.knowledge.codec import DAMAGED, decode_file, encode
from diekae.progress import BatchProgress, silent
from diekae.training.config import TrainingConfig
from diekae.training.dataset import PromptDataset
from diekae.training.objectives import Objective

LAYOUT = 5
"""Version of the cache's files."""
SHARD = 32
"""Examples of one file, and of one pass of the decoder while collecting."""
LABELS, TEACHER, ANCHOR = "labels", "teacher", "anchor_states"
_KNOWLEDGE_FIELDS = ("knowledge_ids", "knowledge_states")
_INPUT_FIELDS = ("input_ids", "receives", LABELS, "states", "targets")
_FIELDS = (*_KNOWLEDGE_FIELDS, *_INPUT_FIELDS, ANCHOR, TEACHER)
"""All fields of an example; each objective keeps some of them."""


class CachedDataset(Dataset[dict[str, Tensor]]):
    """Examples of a finished cache, without padding, read from memory-mapped safetensors."""

    def __init__(self, folder: Path, positions: Sequence[int], lengths: Sequence[int]) -> None:
        """Open the shards of a folder: the position of each example among all on disk, and its length in tokens."""
        self.folder, self.positions, self.lengths = folder, positions, lengths
        self._shards: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number, row = divmod(self.positions[index], SHARD)
        if number not in self._shards:
            self._shards[number] = _read_shard(_shard_path(self.folder, number))
        shard = self._shards[number]
        return {name: shard[f"{row}.{name}"] for name in _FIELDS if f"{row}.{name}" in shard}

    def collate(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Pad a batch to what :meth:`diekae.training.objectives.Objective.keep` returned."""
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


def collect_to_disk(
    folder: Path,
    dataset: PromptDataset,
    gather: Callable[[Batch], Mapping[str, Tensor]],
    *,
    key: dict[str, Any],
    limit_gb: float,
    progress: BatchProgress = silent,
) -> CachedDataset:
    """Collect what an objective keeps of all examples, once. An interrupted collection continues where it stopped.

    Args:
        folder: Holds one subfolder for each key.
        dataset: The prompts.
        gather: Runs the decoder on a batch; see :meth:`diekae.training.objectives.Objective.keep`.
        key: All that the result depends on besides the prompts (decoder's fingerprint, layers, site, …).
        limit_gb: Largest size of the cache on disk, in GB.
        progress: Called with examples done and in all.

    Raises:
        ValueError: The cache would pass the limit.
    """
    home = _home(folder, dataset, key)
    # Examples of similar length share a pass, which saves padding. So the order on disk is not that of the prompts.
    lengths = dataset.lengths
    order = sorted(range(len(dataset)), key=lambda index: lengths[index])
    tokens = size = 0
    for start in range(0, len(order), SHARD):
        path, rows = _shard_path(home, start // SHARD), order[start : start + SHARD]
        if not _is_whole(path):
            prompts = [dataset.prompts[index] for index in rows]
            write_atomically(path, encode(_unpadded(gather(dataset.collate(prompts)), len(prompts)), {}))
        size += path.stat().st_size
        tokens += sum(lengths[index] for index in rows)
        if (expected := size * sum(lengths) / tokens) > limit_gb * 1e9:
            shutil.rmtree(home)
            raise ValueError(
                f"the cache would take {expected / 1e9:.1f} GB, more than cache_limit_gb={limit_gb}; raise the limit, "
                "or train on fewer layers, shorter knowledge or no cache."
            )
        progress(min(len(order), start + SHARD), len(order))
    positions = [0] * len(order)
    for position, index in enumerate(order):
        positions[index] = position
    return CachedDataset(home, positions, lengths)


def cache_examples(
    objective: Objective, dataset: PromptDataset, config: TrainingConfig, progress: BatchProgress = silent
) -> CachedDataset:
    """Collect what an objective keeps of a data set into the configuration's cache.

    Raises:
        ValueError: An example has separately prepared documents, or the cache would pass the limit.
    """
    model = objective.model
    assert config.cache, "the configuration names a cache"
    if any(prompt.apart for prompt in dataset.prompts):
        raise ValueError("documents that are prepared apart cannot be cached; leave cache out, or `apart` in the data.")
    key = {
        "objective": config.objective,
        "whole_input": config.whole_input,
        "decoder": fingerprint(model.decoder),
        "dtype": str(model.decoder.dtype),
        "reads": model.bank.encoder.reads,
        "width": getattr(model.bank.encoder, "state_width", None),
        "layers": list(model.layers),
        **{name: getattr(model.config, name) for name in ("site", "difference", "scope", "anchor")},
    }
    return collect_to_disk(
        Path(config.cache),
        dataset,
        lambda batch: objective.keep(to_device(batch, model.device)),
        key=key,
        limit_gb=config.cache_limit_gb,
        progress=progress,
    )


def _home(folder: Path, dataset: PromptDataset, key: dict[str, Any]) -> Path:
    """Create the subfolder that is named by a digest of key and prompts."""
    digest = hashlib.sha256(json.dumps({**key, "layout": LAYOUT}, sort_keys=True).encode())
    for prompt in dataset.prompts:
        digest.update(repr((prompt.anchor, prompt.knowledge, prompt.input, prompt.target)).encode())
    home = folder / digest.hexdigest()[:16]
    make_folder(home)
    write_atomically(home / "key.json", json.dumps(key, indent=2, sort_keys=True))
    return home


def _unpadded(fields: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Cut a padded batch into its examples, states in bf16; a tensor is named ``row.field``."""
    lengths = dict.fromkeys(_KNOWLEDGE_FIELDS, fields["knowledge_mask"].sum(1).tolist())
    lengths |= dict.fromkeys(_INPUT_FIELDS, fields["input_mask"].sum(1).tolist())
    if ANCHOR in fields:
        lengths[ANCHOR] = fields["anchor_mask"].sum(1).tolist()
    tensors: dict[str, Tensor] = {}
    for name in _FIELDS:
        if name not in fields:
            continue
        field = fields[name]
        if name == TEACHER:  # fp16: logits are small, and bf16 would round what is distilled
            rows = list(field.to(torch.float16).split((fields[LABELS] != IGNORED).sum(1).tolist()))
        elif field.ndim == 4:
            rows = [field[:, row, : lengths[name][row]].to(torch.bfloat16) for row in range(count)]
        else:
            rows = [field[row, : lengths[name][row]] for row in range(count)]
        tensors |= {f"{row}.{name}": value.to("cpu").contiguous().clone() for row, value in enumerate(rows)}
    return tensors


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def _is_whole(path: Path) -> bool:
    """Return whether a shard exists and is the one that was written."""
    try:
        decode_file(path)
    except (OSError, *DAMAGED):
        return False
    return True


def _read_shard(path: Path) -> dict[str, Tensor]:
    """Return the memory-mapped tensors of a shard, which was whole when the run began (OSError if it no longer is)."""
    try:
        return decode_file(path)[0]
    except (OSError, *DAMAGED) as error:
        raise OSError(
            f"{str(path)!r} of the cache was deleted or changed while the run used it ({error}); resume the run, which "
            "collects the missing part again."
        ) from error


def _pad(rows: Sequence[Tensor], value: int = 0) -> Tensor:
    return pad_sequence(list(rows), batch_first=True, padding_value=value)
