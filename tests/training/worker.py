"""Trains a tiny bank as the arguments say; run in processes of its own by the tests, alone or under torchrun."""

import json
import sys
from pathlib import Path

from builders import make_decoder, make_model, make_prompts
from transformers import TrainerCallback

from diekae.training.config import TrainingConfig
from diekae.training.run import train


class Beat(TrainerCallback):
    """Says that a step is done, so that a test can kill at any of them."""

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        print(f"step {state.global_step}", flush=True)


def main(folder: Path, options: dict, resume: bool, encoder: str = "reader") -> None:  # type: ignore[type-arg]
    """Train."""
    model = make_model(encoder, decoder=make_decoder(), layers=(1, 3))
    prompts = make_prompts(40, seed=3)
    prompts = [p for p in prompts if len(p.knowledge) < 40] * 3
    config = TrainingConfig(**options)
    train(model, prompts[:-8], prompts[-8:], config, folder, resume=resume, callbacks=[Beat()])


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), "resume" in sys.argv[3:])
