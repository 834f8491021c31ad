"""Training of a learned gate: InfoNCE (van den Oord et al., 2018) between inputs and edits' prompts, then thresholds.

Subjects are replaced by a stand-in, so only the templates of a few hundred relations are learned, behind many
sentences. The decoder reads each text once, and the heads are trained on its states.

Shapes: T tokens, L layers, W decoder width.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diekae.edit.learned_gate import BATCH, STAND_IN, LearnedGate, strip_format
from diekae.edit.name_search import NearNames
from diekae.edit.prompt_encoder import GateOptions, PromptEncoder, StateReader
from diekae.progress import Progress, silent
from diekae_research.data.case import Case
from diekae_research.editing.phrasings import Phrasings, misspelt, shortened

PAIRS = 80
"""Inputs of a step; each source of relations has the same share."""
BEHIND = 4
"""Sentences that each template is learned behind, besides the paraphrases."""
TEMPERATURE = 0.05
LOST, FALSE = 0.02, 0.005
"""Share of paraphrases for which the gate may stay shut, and of inputs that nearly name a subject that may open it."""


class Relation(NamedTuple):
    """One relation, with a stand-in for its subject."""

    keys: list[str]
    """Prompts of edits."""
    inputs: list[str]
    """Inputs that ask for it."""


class Check(NamedTuple):
    """A fact that chooses thresholds."""

    subject: str
    """The subject."""
    key: str
    """The edit's prompt."""
    reworded: str
    """The prompt in other words."""
    inexact: str
    """The same with the subject misspelt or shortened."""
    other: str | None
    """Another question about the subject."""


def make_relations(cases: Sequence[Case], phrasings: Phrasings, seed: int) -> list[Relation]:
    """Return the relations of some cases, each with its templates and paraphrases; a seed gives the same ones."""
    draw, relations = random.Random(seed), dict[str, Relation]()
    for relation, templates in phrasings.templates.items():
        keys = [name.replace("{}", STAND_IN) for name in templates]
        behind = [phrasings.behind(key, draw) for key in keys for _ in range(BEHIND if phrasings.prefixes else 0)]
        relations[relation] = Relation(keys, [*keys, *behind])
    for case in cases:
        paraphrases = [text.replace(case.subject, STAND_IN) for text in case.paraphrases if case.subject in text]
        relations[phrasings.relations[case.template]].inputs.extend(paraphrases)
    return [relation for relation in relations.values() if len(relation.inputs) > 1]


def make_checks(cases: Sequence[Case], phrasings: Phrasings, seed: int) -> list[Check]:
    """Return the facts that choose thresholds; a seed gives the same ones."""
    draw, checks = random.Random(seed), []
    for case in cases:
        reworded = case.paraphrases[0] if case.paraphrases else phrasings.behind(phrasings.reworded(case, draw), draw)
        name = misspelt(case.subject, draw)
        if draw.random() < 0.4:
            name = shortened(case.subject, draw) or name
        inexact = reworded.replace(case.subject, name)
        checks.append(Check(case.subject, case.prompt, reworded, inexact, phrasings.elsewhere(case, draw)))
    return checks


@torch.no_grad()
def read_states(states: StateReader, texts: Sequence[str], progress: Progress) -> dict[str, Tensor]:
    """Return the decoder's states of each text's tokens, [L, T, W] in half precision."""
    states_of: dict[str, Tensor] = {}
    order = sorted(dict.fromkeys(texts), key=len)
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        read, mask = states([strip_format(text) for text in batch])
        for row, text in enumerate(batch):
            states_of[text] = read[:, row, mask[row]].half().cpu()
        progress("reading the gate's training texts", min(len(order), start + BATCH), len(order))
    return states_of


def train_encoder(
    read: dict[str, Tensor],
    relations: Sequence[Sequence[Relation]],
    options: GateOptions,
    *,
    steps: int = 300,
    rate: float = 3e-3,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[PromptEncoder, list[float]]:
    """Train an encoder.

    Args:
        read: The decoder's states of all keys and inputs, from :func:`read_states`.
        relations: The relations of several sources, which have the same share of a step.
        options: Sizes.
        steps: Optimizer steps.
        rate: Peak learning rate of a cosine schedule.
        seed: Decides start and order.
        progress: Called as training goes on.

    Returns:
        The encoder, and the loss of each step in nats an input.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = PromptEncoder(next(iter(read.values())).shape[2], options)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw, losses = random.Random(seed), []
    for step in range(steps):
        loss = contrast(encoder, read, draw_pairs(relations, draw))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        progress("training the gate", step + 1, steps)
    return encoder.eval(), losses


def draw_pairs(relations: Sequence[Sequence[Relation]], draw: random.Random) -> list[tuple[int, str, str]]:
    """Draw relations; return the number, a key and an input of each."""
    pairs, first = [], 0
    for source in relations:
        for number in draw.choices(range(len(source)), k=PAIRS // len(relations)):
            pairs.append((first + number, draw.choice(source[number].keys), draw.choice(source[number].inputs)))
        first += len(source)
    return pairs


def contrast(encoder: PromptEncoder, read: dict[str, Tensor], pairs: Sequence[tuple[int, str, str]]) -> Tensor:
    """Return the InfoNCE loss in nats: of each input's key among the keys of other relations."""
    numbers = torch.tensor([number for number, _, _ in pairs])
    keys = encoder(*_padded(read, [key for _, key, _ in pairs]))
    inputs = encoder(*_padded(read, [text for _, _, text in pairs]))
    same = (numbers[:, None] == numbers) & ~torch.eye(len(pairs), dtype=torch.bool)
    return F.cross_entropy((inputs @ keys.T / TEMPERATURE).masked_fill(same, -torch.inf), torch.arange(len(pairs)))


def _padded(read: dict[str, Tensor], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    rows = [read[text] for text in texts]
    length = max(row.shape[1] for row in rows)
    states = torch.stack([F.pad(row, (0, 0, 0, length - row.shape[1])) for row in rows], 1)
    return states, torch.arange(length)[None] < torch.tensor([[row.shape[1]] for row in rows])


def choose_thresholds(gate: LearnedGate, checks: Sequence[Check]) -> tuple[GateOptions, dict[str, list[float]]]:
    """Choose the least likeness at which the gate opens, on facts that are neither trained on nor reported.

    For inputs that name the subject, all but :data:`LOST` of the paraphrases must open their edit. For inputs that
    nearly name it, the threshold is the lowest one at which at most :data:`FALSE` of the inputs would open another
    fact's edit, if all edits but their own were in force; it is never lower than the first threshold.

    Args:
        gate: The gate; its thresholds are not used.
        checks: The facts.

    Returns:
        The options with the thresholds, and the likenesses behind them.
    """
    names = NearNames([check.subject for check in checks])
    pairs: dict[str, list[tuple[str, str]]] = {"reworded": [], "other": []}
    wrong: list[list[tuple[str, str]]] = []
    for check in checks:
        key = check.key.replace(check.subject, STAND_IN)
        pairs["reworded"].append((check.reworded.replace(check.subject, STAND_IN), key))
        if check.other:
            pairs["other"].append((check.other.replace(check.subject, STAND_IN), key))
        for text in (check.reworded, check.inexact):
            near = [(match, checks[match.number]) for match in names.find(text)]
            wrong.append(
                [
                    (match.replaced(text, STAND_IN), other.key.replace(other.subject, STAND_IN))
                    for match, other in near
                    if other.subject != check.subject
                ]
            )
    likeness = {name: _likeness(gate, texts) for name, texts in pairs.items()}
    likeness["wrong"] = [max(_likeness(gate, texts), default=-1.0) for texts in wrong]
    mentioned = round(float(np.quantile(likeness["reworded"], LOST)), 4)
    nearly = max(mentioned, round(float(np.quantile(likeness["wrong"], 1 - FALSE)) + 1e-3, 4))
    return dataclasses.replace(gate.options, mentioned=mentioned, nearly=nearly), likeness


def _likeness(gate: LearnedGate, pairs: Sequence[tuple[str, str]]) -> list[float]:
    vectors = gate.vectors(dict.fromkeys(text for pair in pairs for text in pair))
    return [float(vectors[text] @ vectors[key]) for text, key in pairs]
