"""How much `recovered` is lost when prepared knowledge is stored in bf16 or int8?

    python research/experiments/precision.py --folder DATA --json research/results/speed/precision.json

The result is not in the repository: it has not been measured since the encoder `attention` was replaced.
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
from diekae.knowledge import PreparedKnowledge
from diekae.knowledge.codec import PRECISIONS
from diekae.provenance import write_json
from diekae.run.score import nll, target_logits

SETS = ("natural_questions", "facts")


def main(
    folder: Annotated[Path, typer.Option(help="Folder with a folder for each data set.")],
    json: Annotated[Path, typer.Option(help="Where the figures go.")],
    bank: Annotated[Path, typer.Option(help="Folder of a bank, or the name of a shipped one.")] = Path("smollm2"),
    limit: Annotated[int, typer.Option(help="Examples of each set.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the choice of examples.")] = 0,
) -> None:
    """Measure on the sets' test parts. The prepared knowledge is written to a file and read again."""
    model = DiekaeModel.from_pretrained(bank)
    results = {}
    for name in SETS:
        path = None if name == "facts" else str(folder / name)
        spec = DataSpec(name, path, split="test", limit=limit, longest=400)
        prompts = load_prompts(spec, seed, model.need_prompter())
        with torch.no_grad(), frozen(model.decoder):
            bare, prompted = (nll(model, prompts, way, batch_size=8).mean for way in ("bare", "prompted"))
            stored = {precision: score_stored(model, prompts, precision) for precision in PRECISIONS}
        losses = {precision: loss for precision, (loss, _) in stored.items()}
        results[name] = {
            "n": len(prompts),
            "nll": {"bare": bare, "prompted": prompted, **losses},
            "recovered": {
                precision: Scores(bare=bare, prompted=prompted, ours=loss).recovered
                for precision, loss in losses.items()
            },
            "bytes_a_token": {precision: size for precision, (_, size) in stored.items()},
        }
        print(name, results[name], flush=True)
    write_json(json, {"bank": str(bank), "seed": seed, "sets": results})


def score_stored(model: DiekaeModel, prompts: list[Prompt], precision: str) -> tuple[float, float]:
    """Return nats a target token, and bytes of file a knowledge token, the anchor's included and headers left out."""
    loss, tokens, size, slots = 0.0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for prompt in prompts:
            (prepared,) = model.prepare_prompts([prompt])
            content = prepared.to_bytes(precision)
            path = Path(folder) / "prepared"
            path.write_bytes(content)
            header = int.from_bytes(content[:8], "little") + 8
            size, slots = size + len(content) - header, slots + len(prepared)
            logits = target_logits(model, [prompt], "ours", all_prepared=[PreparedKnowledge.load(path)]).float()
            labels = torch.tensor(prompt.target, device=logits.device)
            loss, tokens = loss + float(F.cross_entropy(logits, labels, reduction="sum")), tokens + len(labels)
    return loss / tokens, size / slots


if __name__ == "__main__":
    typer.run(main)
