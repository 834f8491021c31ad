"""What it costs in `recovered` to keep prepared knowledge in bf16 or in int8.

python research/experiments/precision.py --folder PATH_OF_THE_DATA --json research/results/speed/precision.json
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch.nn import functional as F

from diekae import DiekaeModel
from diekae.data.mixture import DataSpec, load_prompts
from diekae.data.prompt import Prompt
from diekae.evaluation.metrics import Scores
from diekae.inject.hooks import frozen
from diekae.provenance import write_json
from diekae.run.score import nll, target_logits
from diekae.store.blob import PRECISIONS, pack, unpack

SETS = ("natural_questions", "facts")


def main(
    folder: Annotated[Path, typer.Option(help="Folder with a folder for each data set.")],
    json: Annotated[Path, typer.Option(help="Where the figures go.")],
    bank: Annotated[Path, typer.Option(help="A bank's folder, or the name of one that came with the package.")] = Path(
        "smollm2"
    ),
    limit: Annotated[int, typer.Option(help="Examples of each set.")] = 40,
    seed: Annotated[int, typer.Option(help="Decides which.")] = 0,
) -> None:
    """Measure on the sets' test parts; the memory goes through a file and back."""
    model = DiekaeModel.from_pretrained(bank)
    prompter, found = model.need_prompter(), {}
    for name in SETS:
        place = None if name == "facts" else str(folder / name)
        prompts = load_prompts(DataSpec(name, place, split="test", limit=limit, longest=400), seed, prompter)
        with torch.no_grad(), frozen(model.decoder):
            bare, prompted = (nll(model, prompts, how, batch_size=8).mean for how in ("bare", "prompted"))
            kept = {precision: through_file(model, prompts, precision) for precision in PRECISIONS}
        found[name] = {
            "n": len(prompts),
            "nll": {"bare": bare, "prompted": prompted, **{key: value[0] for key, value in kept.items()}},
            "recovered": {
                key: Scores(bare=bare, prompted=prompted, ours=value[0]).recovered for key, value in kept.items()
            },
            "bytes_a_token": {key: value[1] for key, value in kept.items()},
        }
        print(name, found[name], flush=True)
    write_json(json, {"bank": str(bank), "seed": seed, "sets": found})


def through_file(model: DiekaeModel, prompts: list[Prompt], precision: str) -> tuple[float, float]:
    """Return nats a target token, and bytes of file a knowledge token: the anchor's among them, headers left out."""
    total, tokens, size, slots = 0.0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for prompt in prompts:
            (prepared,) = model.prepare_prompts([prompt])
            content = pack(prepared, precision)
            path = Path(folder) / "memory"
            path.write_bytes(content)
            size, slots = size + len(content) - int.from_bytes(content[:8], "little") - 8, slots + len(prepared)
            logits = target_logits(model, [prompt], "ours", all_prepared=[unpack(path)]).float()
            labels = torch.tensor(prompt.target, device=logits.device)
            total, tokens = total + float(F.cross_entropy(logits, labels, reduction="sum")), tokens + len(labels)
    return total / tokens, size / slots


if __name__ == "__main__":
    typer.run(main)
