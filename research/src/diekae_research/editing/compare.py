"""What edits are compared with: methods that are trained on the edits, or read them in their context."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diekae.config import DiekaeConfig
from diekae.files import write_atomically
from diekae.fingerprint import fingerprint
from diekae.model import DiekaeModel
from diekae.progress import Progress
from diekae.training.config import TrainingConfig
from diekae_research.editing.cases import Case
from diekae_research.editing.scores import prompt_of
from diekae_research.editing.weights import WeightEdits, WeightOptions, load_weight_edits
from diekae_research.methods import Cost, Fitted, Task, fit
from diekae_research.methods.base import constants_of
from diekae_research.methods.ours import Injected
from diekae_research.provenance import key_of

RATES = {"lora": 2e-3, "sft": 1e-4}
"""Peak learning rates at which the edits themselves are learned in the epochs below."""
EPOCHS = 20.0
TRAINING = TrainingConfig(epochs=EPOCHS, batch_size=4, evaluations=1)
"""How the methods are trained that are no encoders."""
WEIGHTS: dict[str, dict[str, Any]] = {"weights": {}, "weights_without_locality": {"locality": 0.0, "sentences": 0}}
"""What the two rows of the mechanism ``weights`` are given; the second learns the prompts alone, as the paper's."""
TRAINED = ("lora", "sft", *WEIGHTS)
"""Methods that are trained on all edits together, without knowledge."""
UNTRAINED = ("bare", "prompted", "prompted_cached")
"""Methods that learn nothing: what they say depends on the decoder and the prompt alone."""


def fitted(
    model: DiekaeModel, name: str, cases: Sequence[Case], folder: Path, progress: Progress, seed: int = 0
) -> Fitted:
    """Fit a method to the edits of some cases.

    Args:
        model: Decoder, bank and tokenizer; the bank is looked at by none of these.
        name: One of :data:`UNTRAINED` (``prompted`` has the fact in its context) or :data:`TRAINED`.
        cases: Whose edits are made.
        folder: Of checkpoints, in a folder of its own for what the method learns.
        progress: Told how far it is.
        seed: Decides start and order of what is trained.
    """
    if name in UNTRAINED:
        return _fit(model, name, cases, folder, progress, seed)
    decoder = [fingerprint(model.decoder), str(model.decoder.dtype), model.decoder.device.type, model.anchor]
    learned = key_of([decoder, settings(name, cases, seed)])
    place = folder / learned
    if name in WEIGHTS:
        found = _weights(model, name, cases, place / name, progress, seed)
    else:
        found = _fit(model, name, cases, place, progress, seed)
    found.learned = learned
    return found


def _fit(model: DiekaeModel, name: str, cases: Sequence[Case], folder: Path, progress: Progress, seed: int) -> Fitted:
    prompter = model.need_prompter()
    prompts = [prompt_of(prompter, case, case.prompt, case.new) for case in cases]
    task = Task(
        decoder=model.decoder,
        tokenizer=prompter.tokenizer,
        train=prompts,
        validation=prompts[:8],
        folder=folder,
        training=dataclasses.replace(TRAINING, seed=seed),
        learning_rates=RATES,
        diekae=DiekaeConfig.preset("attention"),
        knowledge=name not in TRAINED,
        resume=True,
        progress=progress,
    )
    return fit(name, task)


def _weights(
    model: DiekaeModel, name: str, cases: Sequence[Case], folder: Path, progress: Progress, seed: int
) -> Fitted:
    """Train encoders E(_, x), with or without what the paper does not have; those of an earlier run are read."""
    watch, start = folder / "seconds.txt", time.perf_counter()
    if watch.is_file():
        edits = load_weight_edits(model, folder)
    else:
        edits = WeightEdits(model, epochs=EPOCHS, seed=seed, **WEIGHTS[name])
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


def settings(name: str, cases: Sequence[Case] = (), seed: int = 0) -> dict[str, Any]:
    """Return all that a compared method learns from, as JSON values: how it is trained, and each edit's content."""
    found: dict[str, Any] = {"method": name, "epochs": EPOCHS, "seed": seed}
    if name in WEIGHTS:
        found["weights"] = dataclasses.asdict(WeightOptions(epochs=EPOCHS, seed=seed, **WEIGHTS[name]))
    else:
        found |= {"training": dataclasses.asdict(TRAINING), "rate": RATES.get(name), "constants": constants_of(name)}
    return {**found, "edits": [dataclasses.asdict(case) for case in cases]}
