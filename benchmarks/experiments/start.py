"""What encoders that start from the decoder's attention recover before their first step, by layers and by head size.

python benchmarks/experiments/start.py --folder PATH_OF_THE_DATA --json benchmarks/results/start.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from diekae import DiekaeConfig, DiekaeModel
from diekae.data.mixture import DataSpec, load_prompts
from diekae.data.prompt import Prompt
from diekae.evaluation.evaluate import nll
from diekae.evaluation.metrics import Scores
from diekae.inject.hooks import frozen
from diekae.models import load_decoder
from diekae.provenance import write_json
from diekae.training.config import TrainingConfig
from diekae.training.dataset import PromptDataset
from diekae.training.run import calibrate

SETS = ("dream", "natural_questions")
CHOSEN = (5, 8, 10, 12, 14, 16, 18, 20, 22, 23)
SETTINGS: tuple[tuple[str, Any, int], ...] = (
    ("all", "all", 64),
    ("every second", "every:2", 64),
    ("every third", "every:3", 64),
    ("the shipped bank's ten", CHOSEN, 64),
    ("the shipped bank's ten, half the head", CHOSEN, 32),
)
"""Name, layers, head size."""


def main(
    folder: Annotated[Path, typer.Option(help="Folder with a folder for each data set.")],
    json: Annotated[Path, typer.Option(help="Where the figures go.")],
    limit: Annotated[int, typer.Option(help="Examples of each set.")] = 20,
    seed: Annotated[int, typer.Option(help="Decides which.")] = 0,
) -> None:
    """Measure on the sets' validation parts."""
    decoder, tokenizer = load_decoder("smollm2")
    quiet = lambda _what, _done, _all: None  # noqa: E731

    def scored(model: DiekaeModel, prompts: list[Prompt], how: str) -> float:
        with torch.no_grad(), frozen(decoder):
            return nll(model, prompts, how, None, 16, quiet).mean

    def load(split: str, count: int) -> dict[str, list[Prompt]]:
        prompter = DiekaeModel(decoder, DiekaeConfig(format="qa"), tokenizer).need_prompter()
        specs = {name: DataSpec(name, str(folder / name), split=split, limit=count, longest=200) for name in SETS}
        return {name: load_prompts(spec, seed, prompter) for name, spec in specs.items()}

    held, sample = load("validation", limit), [p for part in load("train", 12).values() for p in part]
    ends: dict[str, list[float]] = {}
    rows = []
    for name, layers, size in SETTINGS:
        options = {"head_size": size, "mlp_width": 0}
        config = DiekaeConfig(
            layers=layers, encoder="attention", site="attention", format="qa", encoder_options=options
        )
        model = DiekaeModel(decoder, config, tokenizer)
        with frozen(decoder):
            calibrate(model, PromptDataset(sample, scope="all", anchor="shared"), TrainingConfig())
        found = {}
        for one, prompts in held.items():
            if one not in ends:
                ends[one] = [scored(model, prompts, how) for how in ("bare", "prompted")]
            ours = scored(model, prompts, "ours")
            found[one] = {"nll": ours, "recovered": Scores(*ends[one], ours).recovered}
        parameters = sum(parameter.numel() for parameter in model.bank.parameters())
        rows.append(
            {"layers": name, "numbers": list(model.layers), "head_size": size, "parameters": parameters, **found}
        )
        print(rows[-1], flush=True)
    write_json(json, {"n": limit, "seed": seed, "ends": ends, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
