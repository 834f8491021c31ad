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
from diekae.editing.learned import BATCH, NEAR, GateOptions, LearnedGate, PromptEncoder, States, bare, resembles
from diekae.editing.phrasings import Phrasings, misspelt, shortened, template

GROUPS = 64
"""Groups a step."""
TOGETHER = 8
"""Groups of a step that share their relation, so that subjects must be told apart."""
TEMPERATURE = 0.05
LOST, FALSE = 0.02, 0.005
"""Shares of inputs that the gate may stay shut for though the subject is mentioned, and open for wrongly where not."""


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
        loss.backward()
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
    gate: LearnedGate, groups: Sequence[Group], read: dict[str, Tensor], others: Sequence[Group]
) -> tuple[GateOptions, dict[str, list[float]]]:
    """Choose how like an input must be, on facts that are neither learned from nor reported.

    Each input is compared with all edits, its own taken away. Where a subject is mentioned, all but :data:`LOST` of the
    inputs in other words must open for their edit. Where it is mentioned nearly, or not, the lowest threshold at which
    :data:`FALSE` of the inputs would open for an edit that is not theirs.

    Args:
        gate: The gate; its thresholds are not looked at.
        groups: Facts that choose.
        read: States of all texts.
        others: Further facts, whose edits are in force too.

    Returns:
        The options with the thresholds, and the likenesses behind them.
    """
    known, right = [*groups, *others], np.arange(len(groups))
    keys = _vectors(gate, read, [group.key for group in known])
    near: dict[str, list[float]] = {"told": [], "unsure": [], "other": [], "wrong": [], "wrong_nearly": []}
    strange = ~np.array([[one.fact == group.fact for one in known] for group in groups])
    for which, name in ((0, "told"), (1, "unsure")):
        texts = [group.queries[which] for group in groups]
        likeness = _vectors(gate, read, texts) @ keys.T
        near[name] = likeness[right, right].tolist()
        near["wrong"] += np.where(strange, likeness, -1.0).max(1).tolist()
        near["wrong_nearly"] += [
            _best_that_resembles(row, known, allowed, text)
            for row, allowed, text in zip(likeness, strange, texts, strict=True)
        ]
    asked = [n for n, group in enumerate(groups) if group.other]
    if asked:
        near["other"] = (_vectors(gate, read, [str(groups[n].other) for n in asked]) * keys[asked]).sum(1).tolist()
    options = dataclasses.replace(
        gate.options,
        mentioned=round(float(np.quantile(near["told"], LOST)), 4),
        nearly=round(float(np.quantile(near["wrong_nearly"], 1 - FALSE)) + 1e-3, 4),
        alone=round(float(np.quantile(near["wrong"], 1 - FALSE)) + 1e-3, 4),
    )
    return options, near


def _best_that_resembles(
    likeness: NDArray[np.float32], known: Sequence[Group], allowed: NDArray[np.bool_], text: str
) -> float:
    """Return the likeness of the likest of the first edits that are allowed and whose subject is nearly in the text."""
    for n in np.argsort(-likeness)[:NEAR]:
        if allowed[n] and resembles(known[n].fact[0], text):
            return float(likeness[n])
    return -1.0


def _vectors(gate: LearnedGate, read: dict[str, Tensor], texts: Sequence[str]) -> NDArray[np.float32]:
    with torch.no_grad():
        parts = [gate.encoder(*_padded(read, texts[n : n + GROUPS])) for n in range(0, len(texts), GROUPS)]
    found: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return found
