"""Training of encoders E(_, x) on edits, without knowledge (paper, section 3.4).

The encoders are the paper's: ``token``, which reads x alone, in layers 3 to 8. Three things differ: they start as the
identity, where the paper continues from encoders trained on differences (its section 4); generated tokens receive
too; and the first tokens, which hold the attention sink, do not.

Trained on the edits alone, as in the paper, they learn to say the new objects everywhere. Two things prevent that, and
both can be switched off: edits are also learned behind sentences that the decoder itself wrote (the context templates
of MEMIT, ``get_context_templates`` in kmeng01/memit), and on such sentences and on other subjects a KL holds the
injected run to the bare one.
"""

from __future__ import annotations

import dataclasses
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diekae.config import DiekaeConfig
from diekae.data.example import Example
from diekae.data.prompt import Prompt
from diekae.edit.edit import Edit
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.model.generation import until_end
from diekae.progress import Progress, silent
from diekae.training.config import TrainingConfig
from diekae.training.run import build_trainer
from diekae_research.editing.objective import (
    EditObjective,
    EditRow,
    EditRows,
    learned_row,
    locality_row,
)
from diekae_research.methods.tuning import ReportProgress

OPENINGS = ("The", "In", "She", "It", "Because", "Therefore", "I", "You")
"""First words of the decoder's own sentences."""
OTHERS = (
    "Marie Curie, Ludwig van Beethoven, Nelson Mandela, Frida Kahlo, Isaac Newton, Jane Austen, Mahatma Gandhi, Pelé, "
    "Toyota, Nokia, Lake Victoria, Mount Fuji, Amsterdam, Kenya, Peru, Norway, the Eiffel Tower, Hamlet, Wikipedia, "
    "the Danube, Queen, Vancouver, Boeing 747, Stanford University"
).split(", ")
"""Subjects for which the decoder must stay as it is, unless an edit is about one."""


@dataclass(frozen=True)
class WeightOptions:
    """How encoders are trained on edits."""

    preset: str = "paper"
    """The encoders; see :meth:`DiekaeConfig.preset`. Without knowledge ``paper`` reads x as tokens, ``default`` as the
    decoder's states, and ``attention`` is no more than an MLP behind each attention."""
    layers: str | tuple[int, ...] | None = None
    """Layers that receive; the preset's if None."""
    epochs: float = 20.0
    """Passes over the edits."""
    batch_size: int = 8
    """Edits a step."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    sentences: int = 24
    """Number of the decoder's own sentences; 0 learns the prompts alone."""
    locality: float = 1.0
    """Weight of the KL to the bare decoder, in nats a token; 0 as in the paper."""
    seed: int = 0
    """Decides sentences, start and order."""

    def configuration(self) -> DiekaeConfig:
        """Return the configuration: the preset, but generated tokens receive, anchors do not, and the start is zero.

        Raises:
            ValueError: The preset is not known, or has nothing to train.
        """
        changes: dict[str, Any] = {"scope": "all", "anchor": "shared"}
        if self.layers is not None:
            changes["layers"] = self.layers
        config = DiekaeConfig.preset(self.preset, **changes)
        if config.encoder == "token":
            config = dataclasses.replace(config, encoder_options={**config.encoder_options, "identity_start": True})
        if config.encoder == "attention" and not config.encoder_options["mlp_width"]:
            raise ValueError(
                f"preset={self.preset!r} has nothing that could learn an edit; choose paper, default or attention."
            )
        return config


def train_encoders(
    model: DiekaeModel, edits: Sequence[Edit], options: WeightOptions, progress: Progress = silent
) -> tuple[DiekaeModel, list[dict[str, float]]]:
    """Train new encoders on edits.

    Args:
        model: Its decoder and tokenizer are used.
        edits: At least one.
        options: How.
        progress: Called as training goes on.

    Returns:
        The decoder with the new encoders, and the log.
    """
    torch.manual_seed(options.seed)
    encoders = DiekaeModel(model.decoder, options.configuration(), model.tokenizer)
    sentences = own_sentences(model, options.sentences, options.seed)
    rows = EditRows(training_rows(model, edits, sentences, options))
    settings = TrainingConfig(
        objective="cross_entropy",
        max_steps=math.ceil(options.epochs * len(edits) / options.batch_size),
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        start_learning_rate=options.learning_rate / 10,
        final_learning_rate=options.learning_rate / 20,
        evaluations=1,
        seed=options.seed,
    )
    with tempfile.TemporaryDirectory() as folder, frozen(model.decoder):
        objective = EditObjective(encoders, encoders.bank, options.locality)
        data: Any = [rows, EditRows(rows.items[: options.batch_size])]
        callback = ReportProgress("training encoders", progress)
        trainer = build_trainer(objective, data, settings, Path(folder), None, [callback])
        trainer.train_from(None)
        return encoders.eval(), list(trainer.state.log_history)


def training_rows(
    model: DiekaeModel, edits: Sequence[Edit], sentences: Sequence[str], options: WeightOptions
) -> list[list[EditRow]]:
    """Return rows of each edit, plain and behind a sentence, with as many rows that must stay."""
    prompter, draw = model.need_prompter(), random.Random(options.seed)
    edited = {name for edit in edits for name in edit.names}
    others = [name for name in OTHERS if name not in edited]
    items = []
    for edit in edits:
        texts = [edit.prompt] + ([f"{draw.choice(sentences)} {edit.prompt}"] if sentences else [])
        rows = [learned_row(prompter.prompt(Example((), text, edit.target), "plain")) for text in texts]
        if options.locality:
            staying = [edit.prompt.replace(edit.subject, draw.choice(others))]
            staying += [draw.choice(sentences)] if sentences else []
            rows += [locality_row(Prompt(model.anchor, (), prompter.input(text, "plain"), ())) for text in staying]
        items.append(rows)
    return items


@torch.no_grad()
def own_sentences(model: DiekaeModel, number: int, seed: int) -> list[str]:
    """Return beginnings of texts, about ten tokens each, sampled from the bare decoder."""
    if not number:
        return []
    prompter = model.need_prompter()
    texts: list[str] = []
    with torch.random.fork_rng(devices=[]), frozen(model.decoder):
        torch.manual_seed(seed)
        for opening in OPENINGS:
            row = [*model.anchor, *prompter.input(opening, "plain")]
            ids = torch.tensor([row] * math.ceil(number / len(OPENINGS)), device=model.device)
            generated = model.decoder.generate(  # type: ignore[operator]
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=True, pad_token_id=0
            )
            rows = until_end(generated[:, len(model.anchor) :], model.decoder)
            texts += [str(prompter.tokenizer.decode(row, skip_special_tokens=True)) for row in rows]
    return [" ".join(text.split()).rstrip(".") + "." for text in texts][:number]
