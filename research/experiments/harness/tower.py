"""A task of lm-evaluation-harness with a document injected, and without: `python research/experiments/harness/tower.py`.

The bank is that of the preset ``attention`` in every layer, which starts from the decoder's own attention: a few steps
on fictional facts are enough. From the root of the repository, with `pip install -e '.[harness]'`, without a network.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

import diekae.demo
from diekae import DiekaeConfig, DiekaeModel
from diekae.data.mixture import DataSpec, load_prompts
from diekae.models import load_decoder
from diekae.provenance import write_json
from diekae.training.config import TrainingConfig
from diekae.training.run import train

EXAMPLES, STEPS, SEED = 32, 4, 0
HERE = Path(__file__).parent
QUESTIONS = len((HERE / "tower.jsonl").read_text().splitlines())
DOCUMENT = Path(diekae.demo.__file__).parent / "document.txt"


def main() -> None:
    """Print the accuracy of D(x), and of D(x) with the document injected; write both if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--json", type=Path, help="Where the figures go.")
    place = parser.parse_args().json
    decoder, tokenizer = load_decoder("smollm2")
    bank = DiekaeModel(decoder, DiekaeConfig.preset("attention", layers="all", format="qa"), tokenizer)
    facts = [
        load_prompts(DataSpec("facts", split=split, limit=EXAMPLES), SEED, bank.need_prompter())
        for split in ("train", "validation")
    ]
    training = TrainingConfig(max_steps=STEPS, batch_size=8, evaluations=1, seed=SEED)
    accuracies = {}
    with tempfile.TemporaryDirectory() as folder:
        train(bank, *facts, training, Path(folder) / "run")
        bank.save_pretrained(folder)
        for name, knowledge in (("nothing known", None), ("document injected", str(DOCUMENT))):
            accuracies[name] = accuracy({"bank": folder, "knowledge": knowledge}, decoder, tokenizer)
            print(f"{name}: accuracy {accuracies[name]:.3f}")
    if place is not None:
        settings = {"task": "tower", "questions": QUESTIONS, "train_examples": EXAMPLES, "steps": STEPS, "seed": SEED}
        config = {"lm_eval": version("lm_eval"), "dtype": str(decoder.dtype), "diekae": bank.config.to_dict()}
        write_json(place, {**settings, **config, "accuracy": accuracies})


def accuracy(model_args: dict[str, Any], decoder: Any, tokenizer: Any) -> float:
    """Let the harness run the task."""
    found = lm_eval.simple_evaluate(
        model="diekae",
        model_args={**model_args, "decoder": decoder, "tokenizer": tokenizer},
        tasks=["tower"],
        task_manager=TaskManager(include_path=str(HERE), include_defaults=False),
        bootstrap_iters=0,
    )
    return float(found["results"]["tower"]["acc,none"])


if __name__ == "__main__":
    main()
