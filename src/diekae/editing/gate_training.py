"""Training a learned gate: contrast of inputs and edits' prompts (InfoNCE; van den Oord et al., 2018), and thresholds.

The decoder reads every text once; the heads then learn from its states, which takes seconds a pass.

Shapes: G groups of a batch, T tokens, L layers, W decoder width.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from diekae.editing.cases import Case
from diekae.editing.gate import Progress
from diekae.editing.learned import BATCH, GateOptions, LearnedGate, PromptEncoder, States, bare
from diekae.editing.phrasings import Phrasings, misspelt, shortened, template

GROUPS = 64
"""Groups a step."""
TOGETHER = 8
"""Groups of a step that share their relation, so that subjects must be told apart."""
TEMPERATURE = 0.05
FALSE_ALONE = 0.005
"""Share of inputs at which the gate may open for a wrong edit whose subject is not mentioned."""


class Group(NamedTuple):
    """One fact, the inputs that ask for it, and one that asks something else of its subject."""

    relation: str
    """Groups of one relation are near each other."""
    fact: tuple[str, str]
    """Subject and relation: what must not be held against each other."""
    key: str
    """The edit's prompt."""
    queries: tuple[str, str]
    """In other words; and with a subject that is misspelt or shortened."""
    other: str | None
    """Something else of the same subject."""


def make_groups(cases: Sequence[Case], phrasings: Phrasings, seed: int) -> list[Group]:
    """Make a group of each case; the same seed makes the same groups."""
    draw, groups = random.Random(seed), []
    for case in cases:
        relation = phrasings.relations.get(template(case), f"question {case.case}")
        told = case.paraphrases[0] if case.paraphrases else phrasings.behind(phrasings.reworded(case, draw), draw)
        name = misspelt(case.subject, draw)
        if draw.random() < 0.4:
            name = shortened(case.subject, draw) or name
        unsure = (phrasings.reworded(case, draw) if case.format == "plain" else case.prompt).replace(case.subject, name)
        if draw.random() < 0.3:
            unsure = phrasings.behind(unsure, draw)
        other = phrasings.elsewhere(case, draw)
        groups.append(Group(relation, (case.subject, relation), case.prompt, (told, unsure), other))
    return groups


def texts_of(groups: Sequence[Group]) -> list[str]:
    """Return all texts of some groups."""
    return [text for group in groups for text in (group.key, *group.queries, *([group.other] if group.other else []))]


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
    groups: Sequence[Group],
    options: GateOptions,
    *,
    steps: int = 800,
    rate: float = 3e-3,
    seed: int = 0,
    progress: Progress = lambda _what, _done, _all: None,
) -> tuple[PromptEncoder, list[float]]:
    """Train an encoder.

    Args:
        read: The decoder's states of the groups' texts, from :func:`read_states`.
        groups: From :func:`make_groups`.
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
        loss = contrast(encoder, read, draw_batch(groups, draw))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        progress("training the gate", step + 1, steps)
    return encoder.eval(), losses


def draw_batch(groups: Sequence[Group], draw: random.Random) -> list[Group]:
    """Draw groups, some of which share their relation."""
    by_relation: dict[str, list[Group]] = {}
    for group in groups:
        by_relation.setdefault(group.relation, []).append(group)
    chosen: list[Group] = []
    while len(chosen) < min(GROUPS, len(groups)):
        kin = by_relation[draw.choice(groups).relation]
        chosen += draw.sample(kin, min(TOGETHER, len(kin)))
    return chosen[:GROUPS]


def contrast(encoder: PromptEncoder, read: dict[str, Tensor], batch: Sequence[Group]) -> Tensor:
    """Return the nats by which an input misses its edit among a batch's, and what else is asked of their subjects."""
    others = [group.other for group in batch if group.other]
    keys = encoder(*_padded(read, [group.key for group in batch] + others))
    facts = [group.fact for group in batch]
    same = torch.tensor([[one == other and n != m for m, other in enumerate(facts)] for n, one in enumerate(facts)])
    same = F.pad(same, (0, len(others)))
    total = torch.zeros(())
    for which in range(2):
        asked = encoder(*_padded(read, [group.queries[which] for group in batch]))
        likeness = (asked @ keys.T / TEMPERATURE).masked_fill(same, -torch.inf)
        total = total + F.cross_entropy(likeness, torch.arange(len(batch)))
    return total / 2


def _padded(read: dict[str, Tensor], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    rows = [read[text] for text in texts]
    length = max(row.shape[1] for row in rows)
    states = torch.stack([F.pad(row, (0, 0, 0, length - row.shape[1])) for row in rows], 1)
    return states, torch.arange(length)[None] < torch.tensor([[row.shape[1]] for row in rows])


def choose_thresholds(
    gate: LearnedGate, groups: Sequence[Group], read: dict[str, Tensor], others: Sequence[str]
) -> tuple[GateOptions, dict[str, list[float]]]:
    """Choose how like an input must be, on facts that are neither learned from nor reported.

    Where a subject is mentioned, the threshold that tells best an input in other words from one that asks something
    else of the subject (their shares weighing alike). Where none is, the lowest at which :data:`FALSE_ALONE` of the
    inputs would open for an edit that is not theirs: each input is compared with all edits but its own.

    Args:
        gate: The gate; its thresholds are not looked at.
        groups: Facts that choose.
        read: States of their texts, and of ``others``.
        others: Prompts of further edits.

    Returns:
        The options with both thresholds, and the likenesses behind them.
    """

    def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
        with torch.no_grad():
            parts = [gate.encoder(*_padded(read, texts[n : n + GROUPS])) for n in range(0, len(texts), GROUPS)]
        found: NDArray[np.float32] = torch.cat([torch.zeros(0, gate.width), *parts]).numpy()
        return found

    own = vectors([group.key for group in groups])
    keys = np.concatenate([own, vectors(others)])
    near: dict[str, list[float]] = {"right": [], "wrong": [], "unsure": [], "alone": []}
    for which, name in ((0, "right"), (1, "unsure")):
        likeness = vectors([group.queries[which] for group in groups]) @ keys.T
        places = np.arange(len(groups))
        near[name] = likeness[places, places].tolist()
        same = [[other.fact == group.fact for other in groups] + [False] * len(others) for group in groups]
        near["alone"] += np.where(np.array(same), -1.0, likeness).max(1).tolist()
    told = [n for n, group in enumerate(groups) if group.other]
    asked = vectors([str(groups[n].other) for n in told])
    near["wrong"] = (asked * own[told]).sum(1).tolist()
    right, wrong = (np.array(near[name]) for name in ("right", "wrong"))
    levels = np.unique(np.round(np.concatenate([right, wrong]), 3))
    shares = [np.mean(right >= level) - np.mean(wrong >= level) for level in levels]
    mentioned, alone = float(levels[int(np.argmax(shares))]), float(np.quantile(near["alone"], 1 - FALSE_ALONE))
    options = dataclasses.replace(gate.options, mentioned=round(mentioned, 4), alone=round(alone + 1e-3, 4))
    return options, near
