"""What edits are compared with: methods that are trained on the edits, or read them in their context."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diekae.config import DiekaeConfig
from diekae.editing.cases import Case
from diekae.editing.scores import prompt_of
from diekae.editing.weights import WeightEdits, WeightOptions, load_weight_edits
from diekae.evaluation.methods import Cost, Fitted, Task, fit
from diekae.evaluation.methods.ours import Injected
from diekae.files import write_atomically
from diekae.model import DiekaeModel
from diekae.training.config import TrainingConfig

Progress = Callable[[str, int, int], None]
RATES = {"lora": 2e-3, "sft": 1e-4}
"""Peak learning rates at which the edits themselves are learned in the epochs below."""
EPOCHS = 20.0
TRAINED = ("lora", "sft", "weights", "weights_without_locality")
"""Methods that are trained on all edits together."""


def fitted(model: DiekaeModel, name: str, cases: Sequence[Case], folder: Path, progress: Progress) -> Fitted:
    """Fit a method to the edits of some cases.

    Args:
        model: Decoder, bank and tokenizer; the bank is looked at by none of these.
        name: ``bare``, ``prompted`` (the fact in the context), or one of :data:`TRAINED`.
        cases: Whose edits are made.
        folder: Of checkpoints.
        progress: Told how far it is.
    """
    prompter = model.need_prompter()
    if name.startswith("weights"):
        return _weights(model, name, cases, folder / name, progress)
    prompts = [prompt_of(prompter, case, case.prompt, case.new) for case in cases]
    task = Task(
        decoder=model.decoder,
        tokenizer=prompter.tokenizer,
        train=prompts,
        validation=prompts[:8],
        folder=folder,
        training=TrainingConfig(epochs=EPOCHS, batch_size=4, evaluations=1),
        learning_rates=RATES,
        diekae=DiekaeConfig.preset("attention"),
        knowledge=name not in TRAINED,
        resume=True,
        progress=progress,
    )
    return fit(name, task)


def _weights(model: DiekaeModel, name: str, cases: Sequence[Case], folder: Path, progress: Progress) -> Fitted:
    """Train encoders E(_, x), with or without what the paper does not have; those of an earlier run are read."""
    plain: dict[str, Any] = {"locality": 0.0, "sentences": 0} if name != "weights" else {}
    watch, start = folder / "seconds.txt", time.perf_counter()
    if watch.is_file():
        edits = load_weight_edits(model, folder)
    else:
        edits = WeightEdits(model, epochs=EPOCHS, **plain)
        edits.add([case.edit for case in cases], progress=progress)
        edits.save(folder)
        write_atomically(watch, f"{time.perf_counter() - start:.3f}\n")
    assert edits.inner is not None
    own = sum(parameter.numel() for parameter in edits.inner.bank.parameters())
    return Injected(
        name=name,
        decoder=model.decoder,
        tokenizer=model.need_prompter().tokenizer,
        knowledge=False,
        cost=Cost(own, float(watch.read_text()), EPOCHS),
        model=edits.inner,
    )


def settings() -> dict[str, Any]:
    """Return what the compared methods are trained with."""
    return {"epochs": EPOCHS, "learning_rates": RATES, "weights": dataclasses.asdict(WeightOptions())}
