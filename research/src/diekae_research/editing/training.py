"""Training behind ``diekae-research edit train``: a gate and an adapter for one bank, saved in one file."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save
from torch import Tensor

from diekae.edit.adapter import EditAdapter
from diekae.edit.learned_gate import LearnedGate
from diekae.edit.prompt_encoder import GateOptions, PromptEncoder, StateReader
from diekae.edit.trained_parts import FILE, TrainedParts
from diekae.files import write_atomically
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae_research.cells import decoder_settings
from diekae_research.data.case import Case
from diekae_research.editing.adapter_training import SETTINGS, make_rows, train_adapter
from diekae_research.editing.cases import CaseParts, divide, read_counterfact, read_zsre
from diekae_research.editing.gate_training import (
    choose_thresholds,
    make_checks,
    make_relations,
    read_states,
    train_encoder,
)
from diekae_research.editing.phrasings import Phrasings
from diekae_research.provenance import key_of

CHECKED = 140
"""Facts with a paraphrase that choose the thresholds."""


@dataclass(frozen=True)
class TrainingSizes:
    """How much is trained."""

    gate_facts: int = 1500
    """Paraphrased facts of CounterFact, besides all templates of CounterFact and zsRE."""
    gate_steps: int = 300
    """Optimizer steps of the gate."""
    adapter_facts: int = 900
    """Facts of CounterFact with a paraphrase; half as many without and a fifth as many of zsRE are added."""
    adapter_steps: int = 60
    """Optimizer steps of the adapter."""


def train_editing(
    model: DiekaeModel, data: Path, out: Path, sizes: TrainingSizes, *, seed: int = 0, progress: Progress = silent
) -> tuple[Path, dict[str, Any]]:
    """Train on the training parts of CounterFact and zsRE; their validation parts make the choices.

    Args:
        model: Decoder and bank.
        data: Folder of ``counterfact`` and ``zsre``.
        out: Folder of checkpoints and the result. An interrupted run continues from its own checkpoints.
        sizes: How much.
        seed: Decides facts, wordings, start and order.
        progress: Called as training goes on.

    Returns:
        The file, and the log.
    """
    facts, questions = divide(read_counterfact(data / "counterfact")), read_zsre(data / "zsre")
    setup = _Setup(model, facts, questions, Phrasings.find(facts.train), out, sizes, seed, progress)
    adapter, adapter_log = _train_adapter(setup)
    encoder, options, gate_log = _train_gate(setup)
    TrainedParts(encoder, options, adapter).save(out / FILE, model)
    return out / FILE, {"sizes": asdict(sizes), "seed": seed, "adapter": adapter_log, "gate": gate_log}


class _Setup(NamedTuple):
    """What both parts are trained with."""

    model: DiekaeModel
    facts: CaseParts
    questions: CaseParts
    phrasings: Phrasings
    out: Path
    sizes: TrainingSizes
    seed: int
    progress: Progress

    def identity(self) -> list[Any]:
        """Return what identifies decoder and bank."""
        bank = self.model.bank
        return [decoder_settings(self.model.decoder), bank.fingerprint(), str(bank.dtype)]


def choose_facts(facts: CaseParts, questions: CaseParts, number: int, seed: int) -> list[Case]:
    """Choose facts to train on: ``number`` with a paraphrase, half as many without, a fifth as many of zsRE."""
    draw = random.Random(seed)
    paraphrased = [case for case in facts.train if case.paraphrases]
    others = [case for case in facts.train if not case.paraphrases]
    draw.shuffle(paraphrased)
    draw.shuffle(others)
    return paraphrased[:number] + others[: number // 2] + questions.train[: number // 5]


def _train_adapter(setup: _Setup) -> tuple[EditAdapter, list[dict[str, float]]]:
    """Train the adapter; return it and the log."""
    sizes, seed, prompter = setup.sizes, setup.seed, setup.model.need_prompter()
    facts = choose_facts(setup.facts, setup.questions, sizes.adapter_facts, seed)
    training = make_rows(prompter, facts, setup.phrasings, seed)
    checked = [case for case in setup.facts.validation if case.paraphrases][:16] + setup.questions.validation[:4]
    validation = make_rows(prompter, checked, setup.phrasings, seed + 1)
    settings = replace(SETTINGS, max_steps=sizes.adapter_steps, seed=seed)
    # A run with other facts, sizes or another bank must not continue from these checkpoints.
    content = [asdict(settings), repr(training), repr(validation)]
    folder = setup.out / f"adapter-{key_of([setup.identity(), *content])}"
    return train_adapter(setup.model, training, validation, folder, settings=settings, progress=setup.progress)


def _train_gate(setup: _Setup) -> tuple[PromptEncoder, GateOptions, dict[str, Any]]:
    """Train the gate; return its encoder and options, and the log: losses, thresholds, and the likeness behind them."""
    sizes, seed, questions, options = setup.sizes, setup.seed, setup.questions, GateOptions()
    states = StateReader(setup.model.decoder, setup.model.need_prompter(), options.layers)
    question_phrasings = Phrasings.find(questions.train)
    paraphrased = [case for case in setup.facts.train if case.paraphrases]
    paraphrased = random.Random(seed).sample(paraphrased, min(sizes.gate_facts, len(paraphrased)))
    relations = [
        make_relations(paraphrased, setup.phrasings, seed),
        make_relations(questions.train, question_phrasings, seed),
    ]
    texts = [text for source in relations for relation in source for text in (*relation.keys, *relation.inputs)]
    path = setup.out / f"states-{key_of([setup.identity(), setup.model.anchor, options.layers])}.safetensors"
    read = _stored_states(states, texts, path, setup.progress)
    encoder, losses = train_encoder(
        read, relations, options, steps=sizes.gate_steps, seed=seed, progress=setup.progress
    )
    checked = [case for case in setup.facts.validation if case.paraphrases][:CHECKED]
    checks = make_checks(checked, setup.phrasings, seed + 1)
    checks += make_checks(questions.validation, question_phrasings, seed + 2)
    chosen, likeness = choose_thresholds(LearnedGate(states, encoder, options), checks)
    rounded = {name: [round(value, 3) for value in values] for name, values in likeness.items()}
    log = {"losses": [round(x, 4) for x in losses], "thresholds": asdict(chosen), "likeness": rounded}
    return encoder, chosen, log


def _stored_states(states: StateReader, texts: Sequence[str], path: Path, progress: Progress) -> dict[str, Tensor]:
    """Return the decoder's states of texts; they are stored, so that another run need not read them again."""
    stored = load_file(path) if path.is_file() else {}
    missing = [text for text in texts if text not in stored]
    if missing:
        stored |= read_states(states, missing, progress)
        write_atomically(path, save({text: tensor.contiguous() for text, tensor in stored.items()}))
    return stored
