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
from diekae.editing.weights import WeightEdits, WeightOptions
from diekae.evaluation.methods import Cost, Fitted, Task, fit
from diekae.evaluation.methods.ours import Injected
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
        return _weights(model, name, cases, progress)
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


def _weights(model: DiekaeModel, name: str, cases: Sequence[Case], progress: Progress) -> Fitted:
    """Train encoders E(_, x), with or without what the paper does not have."""
    plain: dict[str, Any] = {"locality": 0.0, "sentences": 0} if name != "weights" else {}
    edits, start = WeightEdits(model, epochs=EPOCHS, **plain), time.perf_counter()
    edits.add([case.edit for case in cases], progress=progress)
    assert edits.inner is not None
    own = sum(parameter.numel() for parameter in edits.inner.bank.parameters())
    return Injected(
        name=name,
        decoder=model.decoder,
        tokenizer=model.need_prompter().tokenizer,
        knowledge=False,
        cost=Cost(own, time.perf_counter() - start, EPOCHS),
        model=edits.inner,
    )


def settings() -> dict[str, Any]:
    """Return what the compared methods are trained with."""
    return {"epochs": EPOCHS, "learning_rates": RATES, "weights": dataclasses.asdict(WeightOptions())}
