"""A task of lm-evaluation-harness with a document injected, and without: `python examples/harness/tower.py`.

The bank is that of the preset ``attention`` in every layer, which starts from the decoder's own attention: a few steps
on fictional facts are enough. From the root of the repository, with `pip install -e '.[harness]'`, without a network.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager

import diekae.demo
import diekae.evaluation.harness  # registers the model type
from diekae import DiekaeConfig, DiekaeModel
from diekae.data.mixture import DataSpec, load_prompts
from diekae.models import load_decoder
from diekae.training.config import TrainingConfig
from diekae.training.run import train

STEPS = 4
HERE = Path(__file__).parent
DOCUMENT = Path(diekae.demo.__file__).parent / "document.txt"


def main() -> None:
    """Print the accuracy of D(x), and of D(x) with the document injected."""
    decoder, tokenizer = load_decoder("smollm2")
    bank = DiekaeModel(decoder, DiekaeConfig.preset("attention", layers="all", format="qa"), tokenizer)
    facts = [
        load_prompts(DataSpec("facts", split=split, limit=32), 0, bank.need_prompter())
        for split in ("train", "validation")
    ]
    with tempfile.TemporaryDirectory() as folder:
        train(bank, *facts, TrainingConfig(max_steps=STEPS, batch_size=8, evaluations=1), Path(folder) / "run")
        bank.save_pretrained(folder)
        for knowledge in (None, str(DOCUMENT)):
            found = lm_eval.simple_evaluate(
                model="diekae",
                model_args={"bank": folder, "knowledge": knowledge, "decoder": decoder, "tokenizer": tokenizer},
                tasks=["tower"],
                task_manager=TaskManager(include_path=str(HERE), include_defaults=False),
                bootstrap_iters=0,
            )
            named = "nothing known" if knowledge is None else "document injected"
            print(f"{named}: accuracy {found['results']['tower']['acc,none']:.3f}")


if __name__ == "__main__":
    main()
