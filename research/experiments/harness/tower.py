"""Does lm-evaluation-harness see what an injected document says? It runs one task with the document, and without it.

    python research/experiments/harness/tower.py --json research/results/harness.json

Run it from the root of the repository, with the extra `harness` of `research/` installed; it needs no network. The bank
is that of the preset ``attention`` in every layer. It starts from the decoder's own attention, so a few steps on
fictional facts are enough.
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
import diekae_research.evaluation.harness  # noqa: F401 - registers the model type
from diekae import DiekaeConfig, DiekaeModel
from diekae.data.mixture import DataSpec, load_prompts
from diekae.models import load_decoder
from diekae.provenance import write_json
from diekae.training.config import TrainingConfig
from diekae.training.run import train

EXAMPLES, STEPS, SEED = 32, 4, 0
FOLDER = Path(__file__).parent
QUESTIONS = len((FOLDER / "tower.jsonl").read_text().splitlines())
DOCUMENT = Path(diekae.demo.__file__).parent / "document.txt"


def main() -> None:
    """Print the accuracies, and write them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    path = parser.parse_args().json
    decoder, tokenizer = load_decoder("smollm2")
    model = DiekaeModel(decoder, DiekaeConfig.preset("attention", layers="all", format="qa"), tokenizer)
    specs = [DataSpec("facts", split=split, limit=EXAMPLES) for split in ("train", "validation")]
    facts = [load_prompts(spec, SEED, model.need_prompter()) for spec in specs]
    training = TrainingConfig(max_steps=STEPS, batch_size=8, evaluations=1, seed=SEED)
    accuracies = {}
    with tempfile.TemporaryDirectory() as folder:
        train(model, *facts, training, Path(folder) / "run")
        model.save_pretrained(folder)
        for name, knowledge in (("nothing known", None), ("document injected", str(DOCUMENT))):
            accuracies[name] = accuracy({"bank": folder, "knowledge": knowledge}, decoder, tokenizer)
            print(f"{name}: accuracy {accuracies[name]:.3f}")
    if path is not None:
        settings = {"task": "tower", "questions": QUESTIONS, "train_examples": EXAMPLES, "steps": STEPS, "seed": SEED}
        config = {"lm_eval": version("lm_eval"), "dtype": str(decoder.dtype), "diekae": model.config.to_dict()}
        write_json(path, {**settings, **config, "accuracy": accuracies})


def accuracy(model_args: dict[str, Any], decoder: Any, tokenizer: Any) -> float:
    """Return the accuracy that the harness measures."""
    results = lm_eval.simple_evaluate(
        model="diekae",
        model_args={**model_args, "decoder": decoder, "tokenizer": tokenizer},
        tasks=["tower"],
        task_manager=TaskManager(include_path=str(FOLDER), include_defaults=False),
        bootstrap_iters=0,
    )
    return float(results["results"]["tower"]["acc,none"])


if __name__ == "__main__":
    main()
