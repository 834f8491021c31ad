"""What `group_by_length` saves: an epoch on differences with batches of like length, against random ones.

    python benchmarks/experiments/grouping.py --folder DATA --json benchmarks/results/grouping.json

The training data of recipes/smollm2-long.toml, K from 20 to 1,000 tokens; both epochs read the same examples, batch
by batch in turn, so that a busy machine slows both alike. The decoder runs in every step (no cache).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from rich.progress import track
from torch.utils.data import RandomSampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from diekae.data import load_mixture
from diekae.data.prompt import Batch
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.models import load_decoder
from diekae.provenance import write_json
from diekae.recipe import read_recipe
from diekae.training.dataset import PromptDataset
from diekae.training.objectives import DifferenceObjective

RECIPE = Path(__file__).parents[2] / "recipes" / "smollm2-long.toml"
EXAMPLES, BATCH, SEED = 192, 16, 0


def main() -> None:
    """Measure both orders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = read_recipe(RECIPE, [f"folder={arguments.folder}"])
    decoder, tokenizer = load_decoder("smollm2", dtype=torch.float32)
    model = DiekaeModel.from_pretrained("smollm2", decoder, tokenizer)
    prompts = load_mixture(recipe.placed("train"), SEED, model.need_prompter())[:EXAMPLES]
    dataset = PromptDataset(prompts, scope=model.config.scope, anchor=model.config.anchor)
    draw = torch.Generator().manual_seed(SEED)
    orders = {
        "random": list(RandomSampler(dataset, generator=draw)),
        "grouped": list(LengthGroupedSampler(BATCH, lengths=dataset.lengths, generator=draw)),
    }
    objective = DifferenceObjective(model)
    seconds, padding = dict.fromkeys(orders, 0.0), dict.fromkeys(orders, 0)
    with frozen(decoder):
        for start in track(range(0, EXAMPLES, BATCH), "batches"):
            for name, order in orders.items():
                batch = dataset.collate([prompts[index] for index in order[start : start + BATCH]])
                began = time.process_time()
                sums = objective(**batch)
                (sums.loss / sums.positions).backward()
                seconds[name] += time.process_time() - began
                padding[name] += _padding(batch)
                model.bank.zero_grad()
    tokens = sum(2 * (len(p.anchor) + len(p.input) + len(p.target)) + len(p.knowledge) for p in prompts)
    shares = {name: count / (count + tokens) for name, count in padding.items()}
    result = {"examples": EXAMPLES, "batch": BATCH, "padding_share": shares, "seconds": seconds}
    result["ratio"] = seconds["grouped"] / seconds["random"]
    print(result)
    if arguments.json:
        write_json(arguments.json, result)


def _padding(batch: Batch) -> int:
    """Count the columns of both runs that hold nothing."""
    real = int(batch["input_mask"].sum())
    whole = real + int(batch["knowledge_mask"].sum())
    return batch["input_ids"].numel() - real + batch["full_ids"].numel() - whole


if __name__ == "__main__":
    main()
