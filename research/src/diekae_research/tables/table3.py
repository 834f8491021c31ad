"""Table 3: knowledge editing on CounterFact. All edits are made at once and scored together.

ES, PS and NS follow Meng et al. (2022). They are shares of prompts: of edited prompts (ES) and their paraphrases (PS)
where the whole new object is likelier than the whole true one, and of neighbours (NS) where the true one is likelier.
The mean is taken over a case's prompts, and then over cases. S is the harmonic mean of the three. The code of Meng et
al. divides each log-likelihood by the object's tokens; that gives the figures "by length".

Ours edits as the paper does (section 3.4): encoders E(_, x) that see no knowledge are trained on the edits by
cross-entropy. They start untrained, where the paper's were trained on differences before (its section 4).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from diekae.data.example import DataError
from diekae_research.cells import Cell, Result
from diekae_research.data.case import Case
from diekae_research.editing.cases import load_cases
from diekae_research.editing.scores import KINDS, matches, prompt_of, success, successes
from diekae_research.evaluation import intervals
from diekae_research.evaluation.intervals import Columns, Interval
from diekae_research.evaluation.scoring import count_tokens, harm, nll
from diekae_research.methods import Fitted, Task, fit
from diekae_research.provenance import digest
from diekae_research.tables.lab import Lab
from diekae_research.tables.sheet import NOTHING, Report, Sheet, interval, number

TITLE = "Table 3: knowledge editing on CounterFact"
METHODS = ("bare", "prompted", "lora", "sft", "ours_finetuned_from_scratch")
WITH_KNOWLEDGE = ("prompted", "prompted_cached", "cartridge")
"""Methods with the fact in their context; all others are trained on the edits and see no knowledge."""
EPOCHS = 5.0
"""Least passes over the edits: the paper's (appendix A.3)."""
PAPER = {
    "bare": (13.86, 16.75, 83.74),
    "lora": (56.89, 47.05, 42.83),
    "sft": (51.18, 51.15, 48.73),
    "ours_finetuned_from_scratch": (56.74, 50.84, 43.43),
}
"""ES, PS and NS of the paper in per cent."""
_NOTES = (
    "ES, PS, NS: per cent of edited prompts, paraphrases and neighbours where the right object as a whole is likelier "
    "than the other; S: their harmonic mean; by length: per token, as in ROME's code. In brackets: 95 % bootstrap "
    "intervals over cases. paper: ES / PS / NS.",
    "generated: per cent of edits after whose prompt greedy decoding generates the new object.",
    "drift: KL(D(x) ‖ method) in nats a token on the neighbours' true objects.",
    "The edits themselves choose the checkpoint; paraphrases and neighbours choose nothing. prompted has the fact in "
    "its context. ours is trained as E(_, x), without knowledge (paper, 3.4); it starts untrained, where the paper's "
    "starts from encoders trained on differences.",
)
READS = {
    "token": "a token encoder reads x alone, as the paper's",
    "reader": "a reader attends to its null slot, which holds nothing, and reads D's states of x by its skip path",
    "attention": "without K's slots an attention encoder is no more than an MLP behind each attention",
}
"""What E(_, x) reads, by encoder."""


def cells(lab: Lab) -> list[Cell]:
    """Return a cell for each method."""
    try:
        edits = load_cases(lab.plan.data / "counterfact", lab.plan.train_examples, lab.plan.seed)
    except DataError as error:
        lab.missing["counterfact"] = str(error).replace(str(lab.plan.data), "DATA")
        raise
    return [_cell(lab, method, edits) for method in lab.plan.methods or METHODS]


def _cell(lab: Lab, method: str, edits: Sequence[Case]) -> Cell:
    prompts = [prompt_of(lab.prompter, edit, edit.prompt, edit.new) for edit in edits]
    task = lab.task(prompts, prompts, epochs=max(EPOCHS, lab.plan.epochs), knowledge=method in WITH_KNOWLEDGE)
    settings = {
        **lab.settings(method, task),
        "edits": digest({str(edit.case): dataclasses.asdict(edit) for edit in edits}),
    }
    return Cell(f"editing-{method}", settings, lambda: _measure(lab, method, task, edits))


def _measure(lab: Lab, method: str, task: Task, edits: Sequence[Case]) -> Result:
    """Fit a method to the edits, and score it on each case."""
    bare, fitted = fit("bare", task), fit(method, task)
    columns = successes(lab.prompter, lambda rows: nll(fitted, rows, lab.plan.batch_size, lab.progress), edits)
    columns["generated"] = _generated(lab, fitted, edits)
    cases = [n for n, edit in enumerate(edits) for _ in edit.neighbours]
    neighbours = [prompt_of(lab.prompter, edit, text, edit.true) for edit in edits for text in edit.neighbours]
    if neighbours:
        drift = harm(bare, fitted, neighbours, lab.plan.batch_size, lab.progress)
        for name, values in (("drift", drift), ("drift_tokens", count_tokens(neighbours))):
            columns[name] = np.bincount(cases, values, len(edits)).tolist()
    return {"columns": columns, "cost": fitted.cost.to_dict()}


def _generated(lab: Lab, fitted: Fitted, edits: Sequence[Case]) -> list[float]:
    """Return 1 for each edit whose new object is generated, up to case, punctuation and articles; else 0."""
    is_generated = []
    for start in range(0, len(edits), lab.plan.batch_size):
        batch = edits[start : start + lab.plan.batch_size]
        prompts = [prompt_of(lab.prompter, edit, edit.prompt, edit.new) for edit in batch]
        texts = fitted.generate(prompts, max(len(prompt.target) for prompt in prompts))
        for edit, text in zip(batch, texts, strict=True):
            is_generated.append(matches(text, edit.new)[1])
    return is_generated


def report(lab: Lab, results: Sequence[Result]) -> Report:
    """Lay the figures out, in per cent."""
    rows = []
    for method, result in zip(lab.plan.methods or METHODS, results, strict=True):
        columns, seconds, seed = result["columns"], result["cost"]["seconds"], lab.plan.seed
        by_length = [_success(columns, [kind], "_by_length", seed) for kind in KINDS]
        paper = PAPER.get(method)
        rows.append(
            [
                method,
                str(len(columns["es"])),
                *(interval(_success(columns, [kind], "", seed), 1, 100) for kind in KINDS),
                interval(_success(columns, KINDS, "", seed), 1, 100),
                interval(intervals.mean([columns], "generated", seed), 1, 100),
                " / ".join(NOTHING if share is None else number(100 * share.value, 1) for share in by_length),
                interval(_drift(columns, seed)),
                number(seconds, 1) if seconds else NOTHING,
                " / ".join(number(value, 1) for value in paper) if paper else NOTHING,
            ]
        )
    heads = ("method", "edits", "ES", "PS", "NS", "S", "generated", "ES / PS / NS by length", "drift")
    notes = (*_NOTES, f"E(_, x): {READS.get(lab.config.encoder, lab.config.encoder)}.")
    return Report([Sheet(TITLE, (*heads, "training, s", "paper"), rows, notes)])


def _success(columns: Columns, kinds: Sequence[str], suffix: str, seed: int) -> Interval | None:
    """Return the share of successes of a kind; of several kinds, the harmonic mean."""
    return success(columns, {kind + suffix: f"n_{kind}" for kind in kinds}, seed)


def _drift(columns: Columns, seed: int) -> Interval | None:
    if "drift" not in columns:
        return None
    used = {"drift": columns["drift"], "tokens": columns["drift_tokens"]}
    return intervals.bootstrap([used], lambda sums: sums["drift"] / np.maximum(sums["tokens"], 1), seed)
