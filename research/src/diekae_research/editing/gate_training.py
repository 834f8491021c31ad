"""Training a learned gate: contrast of inputs and edits' prompts (InfoNCE; van den Oord et al., 2018), and thresholds.

What is asked has no subject in it, so a few hundred templates of relations, behind many sentences, are all there is to
learn; the decoder reads each once, and the heads then learn from its states, which takes a tenth of a second a step.

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

from diekae.edit.learned import BATCH, STAND_IN, GateOptions, LearnedGate, PromptEncoder, States, bare
from diekae.edit.names import NearNames
from diekae.progress import Progress, silent
from diekae_research.editing.cases import Case
from diekae_research.editing.phrasings import Phrasings, misspelt, shortened, template

PAIRS = 80
"""Inputs of a step; each source of relations has the same share of them."""
BEHIND = 4
"""Sentences that each template is learned behind, beside paraphrases as they were found."""
TEMPERATURE = 0.05
LOST, FALSE = 0.02, 0.005
"""Shares of inputs that the gate may stay shut for though the subject is named, and open for wrongly where nearly."""


class Relation(NamedTuple):
    """One relation, a stand-in for its subject."""

    keys: list[str]
    """As edits ask for it."""
    inputs: list[str]
    """As inputs ask for it."""


class Check(NamedTuple):
    """A fact that chooses thresholds."""

    subject: str
    """Of whom."""
    key: str
    """The edit's prompt."""
    told: str
    """The same in other words."""
    unsure: str
    """The same of a subject that is misspelt or shortened."""
    other: str | None
    """Something else of the same subject."""


def make_relations(cases: Sequence[Case], phrasings: Phrasings, seed: int) -> list[Relation]:
    """Return the relations of some cases, each with its templates and paraphrases; the same seed draws the same."""
    draw, found = random.Random(seed), dict[str, Relation]()
    for relation, templates in phrasings.templates.items():
        keys = [name.replace("{}", STAND_IN) for name in templates]
        behind = [phrasings.behind(key, draw) for key in keys for _ in range(BEHIND if phrasings.prefixes else 0)]
        found[relation] = Relation(keys, [*keys, *behind])
    for case in cases:
        told = [text.replace(case.subject, STAND_IN) for text in case.paraphrases if case.subject in text]
        found[phrasings.relations[template(case)]].inputs.extend(told)
    return [relation for relation in found.values() if len(relation.inputs) > 1]


def make_checks(cases: Sequence[Case], phrasings: Phrasings, seed: int) -> list[Check]:
    """Return what chooses thresholds; the same seed draws the same."""
    draw, checks = random.Random(seed), []
    for case in cases:
        told = case.paraphrases[0] if case.paraphrases else phrasings.behind(phrasings.reworded(case, draw), draw)
        name = misspelt(case.subject, draw)
        if draw.random() < 0.4:
            name = shortened(case.subject, draw) or name
        unsure = told.replace(case.subject, name)
        checks.append(Check(case.subject, case.prompt, told, unsure, phrasings.elsewhere(case, draw)))
    return checks


@torch.no_grad()
def read_states(states: States, texts: Sequence[str], progress: Progress) -> dict[str, Tensor]:
    """Return the decoder's states of each text's own tokens, [L, T, W] in half precision."""
    found: dict[str, Tensor] = {}
    order = sorted(dict.fromkeys(texts), key=len)
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        read, mask = states([bare(text) for text in batch])
        for row, text in enumerate(batch):
            found[text] = read[:, row, mask[row]].half().cpu()
        progress("reading what the gate learns from", min(len(order), start + BATCH), len(order))
    return found


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
        relations: Of several sources, which have the same share of a step.
        options: Sizes.
        steps: Optimizer steps.
        rate: Peak learning rate of a cosine.
        seed: Decides start and order.
        progress: Told how far it is.

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
    """Draw relations, and of each a number that names it, a key and an input."""
    pairs, first = [], 0
    for source in relations:
        for number in draw.choices(range(len(source)), k=PAIRS // len(relations)):
            pairs.append((first + number, draw.choice(source[number].keys), draw.choice(source[number].inputs)))
        first += len(source)
    return pairs


def contrast(encoder: PromptEncoder, read: dict[str, Tensor], pairs: Sequence[tuple[int, str, str]]) -> Tensor:
    """Return the nats by which an input misses its key among those of other relations."""
    numbers = torch.tensor([number for number, _, _ in pairs])
    keys = encoder(*_padded(read, [key for _, key, _ in pairs]))
    asked = encoder(*_padded(read, [text for _, _, text in pairs]))
    same = (numbers[:, None] == numbers) & ~torch.eye(len(pairs), dtype=torch.bool)
    return F.cross_entropy((asked @ keys.T / TEMPERATURE).masked_fill(same, -torch.inf), torch.arange(len(pairs)))


def _padded(read: dict[str, Tensor], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    rows = [read[text] for text in texts]
    length = max(row.shape[1] for row in rows)
    states = torch.stack([F.pad(row, (0, 0, 0, length - row.shape[1])) for row in rows], 1)
    return states, torch.arange(length)[None] < torch.tensor([[row.shape[1]] for row in rows])


def choose_thresholds(gate: LearnedGate, checks: Sequence[Check]) -> tuple[GateOptions, dict[str, list[float]]]:
    """Choose how like an input must be, on facts that are neither learned from nor reported.

    Where a subject is named, all but :data:`LOST` of the inputs in other words must open for their edit. Where it is
    nearly named, the lowest threshold, but no lower one, at which :data:`FALSE` of the inputs would open for an edit
    that is not theirs, were all the facts' edits in force but their own.

    Args:
        gate: The gate; its thresholds are not looked at.
        checks: Facts that choose.

    Returns:
        The options with the thresholds, and the likenesses behind them.
    """
    names = NearNames([check.subject for check in checks])
    pairs: dict[str, list[tuple[str, str]]] = {"told": [], "other": []}
    wrong: list[list[tuple[str, str]]] = []
    for check in checks:
        key = check.key.replace(check.subject, STAND_IN)
        pairs["told"].append((check.told.replace(check.subject, STAND_IN), key))
        if check.other:
            pairs["other"].append((check.other.replace(check.subject, STAND_IN), key))
        for text in (check.told, check.unsure):
            near = [(place, checks[place.which]) for place in names.find(text)]
            wrong.append(
                [
                    (place.replaced(text, STAND_IN), other.key.replace(other.subject, STAND_IN))
                    for place, other in near
                    if other.subject != check.subject
                ]
            )
    found = {name: _likeness(gate, some) for name, some in pairs.items()}
    found["wrong"] = [max(_likeness(gate, some), default=-1.0) for some in wrong]
    mentioned = round(float(np.quantile(found["told"], LOST)), 4)
    nearly = max(mentioned, round(float(np.quantile(found["wrong"], 1 - FALSE)) + 1e-3, 4))
    return dataclasses.replace(gate.options, mentioned=mentioned, nearly=nearly), found


def _likeness(gate: LearnedGate, pairs: Sequence[tuple[str, str]]) -> list[float]:
    vectors = gate.vectors(dict.fromkeys(text for pair in pairs for text in pair))
    return [float(vectors[one] @ vectors[other]) for one, other in pairs]
