"""How much time does `group_by_length` save in an epoch of the shipped bank's recipe?

    python research/experiments/grouping.py --folder DATA --json research/results/grouping.json

The bank is untrained, which costs the same. Both orders have the same examples. They are timed batch by batch in turn,
so that a busy machine slows both alike.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch.utils.data import RandomSampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from diekae.data import load_mixture
from diekae.data.batch import Batch
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.models import load_decoder
from diekae.provenance import write_json
from diekae.recipe import read_recipe
from diekae.training.dataset import PromptDataset
from diekae.training.objectives import OBJECTIVES

RECIPE = Path(__file__).parents[1] / "recipes" / "smollm2.toml"
EXAMPLES, BATCH, SEED = 192, 16, 0


def main() -> None:
    """Time both orders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder with a folder for each data set")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = read_recipe(RECIPE, [f"folder={arguments.folder}"])
    decoder, tokenizer = load_decoder("smollm2", dtype=torch.float32)
    model = DiekaeModel(decoder, recipe.diekae, tokenizer)
    prompts = load_mixture(recipe.sources("train"), SEED, model.need_prompter())[:EXAMPLES]
    dataset = PromptDataset(prompts, scope=model.config.scope, anchor=model.config.anchor)
    generator = torch.Generator().manual_seed(SEED)
    orders = {
        "random": list(RandomSampler(dataset, generator=generator)),
        "grouped": list(LengthGroupedSampler(BATCH, lengths=dataset.lengths, generator=generator)),
    }
    objective = OBJECTIVES[recipe.stages[0].objective](model)
    seconds, padding, columns = dict.fromkeys(orders, 0.0), dict.fromkeys(orders, 0), dict.fromkeys(orders, 0)
    with frozen(decoder):
        for start in track(range(0, EXAMPLES, BATCH), "batches"):
            for name, order in orders.items():
                batch = dataset.collate([prompts[index] for index in order[start : start + BATCH]])
                before = time.process_time()
                sums = objective(**batch)
                (sums.loss / sums.positions).backward()
                seconds[name] += time.process_time() - before
                model.bank.zero_grad()
                total, empty = count_columns(batch)
                columns[name] += total
                padding[name] += empty
    shares = {name: padding[name] / columns[name] for name in orders}
    result = {"examples": EXAMPLES, "batch": BATCH, "padding_share": shares, "seconds": seconds}
    result["ratio"] = seconds["grouped"] / seconds["random"]
    print(result)
    if arguments.json:
        write_json(arguments.json, result)


def count_columns(batch: Batch) -> tuple[int, int]:
    """Return the columns of all runs (with K, without, and of separate documents), and those that are padding."""
    tensors: Any = batch
    filled = 2 * int(tensors["input_mask"].sum()) + int(tensors["knowledge_mask"].sum())
    total = tensors["input_ids"].numel() + tensors["full_ids"].numel()
    if "document_ids" in tensors:
        filled += int(tensors["document_mask"].sum()) + int(tensors["document_start"].sum())
        total += tensors["document_ids"].numel()
    return total, total - filled


if __name__ == "__main__":
    main()
