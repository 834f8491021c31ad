"""What ``diekae-research edit train`` does: a gate and a memory adapter for one bank, in one file; a cut run goes on."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save
from torch import Tensor

from diekae.edit.learned import GateOptions, LearnedGate, States
from diekae.edit.trained import FILE, Trained, load_trained
from diekae.files import write_atomically
from diekae.fingerprint import fingerprint
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae_research.editing.adapter_training import SETTINGS, make_lessons, train_adapter
from diekae_research.editing.cases import Case, Parts, divide, divide_by_subject, read_counterfact, read_zsre
from diekae_research.editing.gate_training import (
    choose_thresholds,
    make_checks,
    make_relations,
    read_states,
    train_encoder,
)
from diekae_research.editing.phrasings import Phrasings
from diekae_research.provenance import key_of

PARTS = ("adapter", "gate")
CHECKED = 140
"""Facts with a paraphrase that choose the thresholds."""


@dataclass(frozen=True)
class Sizes:
    """How much is learned from."""

    gate_facts: int = 1500
    """Paraphrases of CounterFact, beside all templates of it and of zsRE."""
    gate_steps: int = 300
    """Optimizer steps."""
    adapter_facts: int = 900
    """Facts of CounterFact with a paraphrase, to which come half as many without, and a fifth of zsRE."""
    adapter_steps: int = 60
    """Optimizer steps."""


def train_editing(
    model: DiekaeModel,
    data: Path,
    out: Path,
    sizes: Sizes,
    parts: Sequence[str] = PARTS,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Path, dict[str, Any]]:
    """Train on the training parts of CounterFact and zsRE; their validation parts choose.

    Args:
        model: Decoder and bank.
        data: Folder with ``counterfact`` and ``zsre``.
        out: Checkpoints, and the result; a part that an earlier run has trained stays in it. A run that was cut off
            goes on from its own checkpoints, and from nobody else's.
        sizes: How much.
        parts: ``adapter``, ``gate``.
        seed: Decides facts, wordings, start and order.
        progress: Told how far it is.

    Returns:
        The file, and what was seen while training.
    """
    known, questions = divide(read_counterfact(data / "counterfact")), divide_by_subject(read_zsre(data / "zsre"))
    ground = _Ground(model, known, questions, Phrasings.find(known.train), out, sizes, seed, progress)
    log: dict[str, Any] = {"sizes": dataclasses.asdict(sizes), "seed": seed}
    if "adapter" in parts:
        log["adapter"] = _adapter(ground)
    if "gate" in parts:
        log["gate"] = _gate(ground)
    files = [out / f"{part}.safetensors" for part in PARTS]
    found = [load_trained(file, model) for file in files if file.is_file()]
    encoder = next((one for one in found if one.encoder is not None), Trained())
    adapter = next((one.adapter for one in found if one.adapter is not None), None)
    Trained(encoder.encoder, encoder.gate, adapter).save(out / FILE, model)
    return out / FILE, log


class _Ground(NamedTuple):
    """What both parts are trained on."""

    model: DiekaeModel
    known: Parts
    questions: Parts
    phrasings: Phrasings
    out: Path
    sizes: Sizes
    seed: int
    progress: Progress

    def identity(self) -> list[str]:
        """Return what anything that is learned or read depends on: decoder and bank."""
        decoder, bank = self.model.decoder, self.model.bank
        return [fingerprint(decoder), str(decoder.dtype), decoder.device.type, bank.fingerprint(), str(bank.dtype)]


def chosen(known: Parts, questions: Parts, number: int, seed: int) -> list[Case]:
    """Choose facts to learn from: so many with a paraphrase, half as many without, a fifth as many of zsRE."""
    draw = random.Random(seed)
    told = [case for case in known.train if case.paraphrases]
    rest = [case for case in known.train if not case.paraphrases]
    draw.shuffle(told)
    draw.shuffle(rest)
    return told[:number] + rest[: number // 2] + questions.train[: number // 5]


def _adapter(ground: _Ground) -> Any:
    sizes, seed, prompter = ground.sizes, ground.seed, ground.model.need_prompter()
    facts = chosen(ground.known, ground.questions, sizes.adapter_facts, seed)
    learned = make_lessons(prompter, facts, ground.phrasings, seed)
    checked = [case for case in ground.known.validation if case.paraphrases][:16] + ground.questions.validation[:4]
    check = make_lessons(prompter, checked, ground.phrasings, seed + 1)
    settings = dataclasses.replace(SETTINGS, max_steps=sizes.adapter_steps, seed=seed)
    # A run of other facts or sizes, or with another bank, must not go on from this one's checkpoints.
    content = [dataclasses.asdict(settings), repr(learned), repr(check)]
    folder = ground.out / f"adapter-{key_of([ground.identity(), *content])}"
    adapter, log = train_adapter(ground.model, learned, check, folder, settings=settings, progress=ground.progress)
    Trained(adapter=adapter).save(ground.out / "adapter.safetensors", ground.model)
    return log


def _gate(ground: _Ground) -> Any:
    sizes, seed, questions, options = ground.sizes, ground.seed, ground.questions, GateOptions()
    states = States(ground.model.decoder, ground.model.need_prompter(), ground.model.anchor, options.layers)
    asking = Phrasings.find(questions.train)
    told = [case for case in ground.known.train if case.paraphrases]
    told = random.Random(seed).sample(told, min(sizes.gate_facts, len(told)))
    relations = [make_relations(told, ground.phrasings, seed), make_relations(questions.train, asking, seed)]
    texts = [text for source in relations for relation in source for text in (*relation.keys, *relation.inputs)]
    place = ground.out / f"states-{key_of([ground.identity(), ground.model.anchor, options.layers])}.safetensors"
    read = _kept_states(states, texts, place, ground.progress)
    encoder, losses = train_encoder(
        read, relations, options, steps=sizes.gate_steps, seed=seed, progress=ground.progress
    )
    checked = [case for case in ground.known.validation if case.paraphrases][:CHECKED]
    checks = make_checks(checked, ground.phrasings, seed + 1) + make_checks(questions.validation, asking, seed + 2)
    best, near = choose_thresholds(LearnedGate(states, encoder, options), checks)
    Trained(encoder, best).save(ground.out / "gate.safetensors", ground.model)
    rounded = {name: [round(value, 3) for value in values] for name, values in near.items()}
    return {"losses": [round(loss, 4) for loss in losses], "thresholds": dataclasses.asdict(best), "likeness": rounded}


def _kept_states(states: States, texts: Sequence[str], path: Path, progress: Progress) -> dict[str, Tensor]:
    """Return the states of texts; those that an earlier run has read are kept beside the result."""
    found = load_file(path) if path.is_file() else {}
    missing = [text for text in texts if text not in found]
    if missing:
        found |= read_states(states, missing, progress)
        write_atomically(path, save({text: tensor.contiguous() for text, tensor in found.items()}))
    return found
