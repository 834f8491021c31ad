"""The methods that edits are compared with: trained on the edits, or with the edits in their context."""

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
from diekae_research.editing.weight_training import WeightOptions
from diekae_research.editing.weights import WeightEdits, load_weight_edits
from diekae_research.methods import Cost, Fitted, Task, fit
from diekae_research.methods.base import constants_of
from diekae_research.methods.ours import Injected
from diekae_research.provenance import key_of

RATES = {"lora": 2e-3, "sft": 1e-4}
"""Peak learning rates that learn the edits within the epochs below."""
EPOCHS = 20.0
TRAINING = TrainingConfig(epochs=EPOCHS, batch_size=4, evaluations=1)
"""How the methods are trained that are no encoders."""
WEIGHTS: dict[str, dict[str, Any]] = {"weights": {}, "weights_without_locality": {"locality": 0.0, "sentences": 0}}
"""Options of the two rows of weight edits; the second learns the prompts alone, as the paper's."""
TRAINED = ("lora", "sft", *WEIGHTS)
"""Methods that are trained on all edits together, without knowledge."""
UNTRAINED = ("bare", "prompted", "prompted_cached")
"""Methods that learn nothing: their output depends on the decoder and the prompt alone."""


def fit_to_edits(
    model: DiekaeModel, name: str, cases: Sequence[Case], folder: Path, progress: Progress, seed: int = 0
) -> Fitted:
    """Fit a method to the edits of some cases.

    Args:
        model: Decoder and tokenizer; none of these methods uses its bank.
        name: One of :data:`UNTRAINED` (``prompted`` has the fact in its context) or :data:`TRAINED`.
        cases: Their edits are made.
        folder: Checkpoints go into folders below it, one for each set of edits and settings.
        progress: Called as training goes on.
        seed: Decides start and order of training.
    """
    if name in UNTRAINED:
        return _fit(model, name, cases, folder, progress, seed)
    decoder = [fingerprint(model.decoder), str(model.decoder.dtype), model.decoder.device.type, model.anchor]
    fit_digest = key_of([decoder, settings(name, cases, seed)])
    if name in WEIGHTS:
        fitted = _fit_weights(model, name, cases, folder / fit_digest / name, progress, seed)
    else:
        fitted = _fit(model, name, cases, folder / fit_digest, progress, seed)
    fitted.fit_digest = fit_digest
    return fitted


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


def _fit_weights(
    model: DiekaeModel, name: str, cases: Sequence[Case], folder: Path, progress: Progress, seed: int
) -> Fitted:
    """Train weight edits, or read those of an earlier run."""
    seconds_path, start = folder / "seconds.txt", time.perf_counter()
    if seconds_path.is_file():
        edits = load_weight_edits(model, folder)
    else:
        edits = WeightEdits(model, epochs=EPOCHS, seed=seed, **WEIGHTS[name])
        edits.add([case.edit for case in cases], progress=progress)
        edits.save(folder)
        write_atomically(seconds_path, f"{time.perf_counter() - start:.3f}\n")
    assert edits.encoders is not None
    parameters = sum(parameter.numel() for parameter in edits.encoders.bank.parameters())
    return Injected(
        name=name,
        decoder=model.decoder,
        tokenizer=model.need_prompter().tokenizer,
        knowledge=False,
        cost=Cost(parameters, float(seconds_path.read_text()), EPOCHS),
        model=edits.encoders,
    )


def settings(name: str, cases: Sequence[Case] = (), seed: int = 0) -> dict[str, Any]:
    """Return everything that a trained method depends on, as JSON values: training options and the edits."""
    values: dict[str, Any] = {"method": name, "epochs": EPOCHS, "seed": seed}
    if name in WEIGHTS:
        values["weights"] = dataclasses.asdict(WeightOptions(epochs=EPOCHS, seed=seed, **WEIGHTS[name]))
    else:
        values |= {"training": dataclasses.asdict(TRAINING), "rate": RATES.get(name), "constants": constants_of(name)}
    return {**values, "edits": [dataclasses.asdict(case) for case in cases]}
