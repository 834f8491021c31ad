"""Knowledge augmentation, the paper's main task (section 5.1): a cell trains one method on a mixture and scores it.

Tables 1 and 5 and figure 3 show such cells, so a cell that one of them has measured serves the others. Numbers are kept
for each example, so that tables can compute any figure and its interval without running a model.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence

import torch

from diekae.config import DiekaeConfig
from diekae.data.prompt import Prompt
from diekae.evaluation.evaluate import TIMED_EXAMPLES, TIMED_ROUNDS, swap_knowledge, time_all
from diekae.fingerprint import window
from diekae.progress import Progress
from diekae.run.timing import time_in_turn
from diekae_research.cells import Cell, Result, digest_prompts, read_log
from diekae_research.evaluation.scoring import count_tokens, harm, nll, score_answers
from diekae_research.methods import Fitted, Task, fit
from diekae_research.methods.ours import Injected
from diekae_research.tables.lab import Lab
from diekae_research.tables.plan import QUESTION_SETS

SETS = ("cmu_dog", "curiosity", "dream", "natural_questions", "quasar_t", "wizard_of_wikipedia")
"""The paper's data sets (section 4.1)."""
TIMED = 8
"""Examples of each data set whose passes are timed."""
Columns = dict[str, list[float]]
"""Numbers of each example, by name."""


def augmentation(lab: Lab, method: str, sets: Sequence[str], config: DiekaeConfig | None = None) -> Cell:
    """Return the cell of one method.

    Args:
        lab: Decoder, data and plan.
        method: A registered method.
        sets: Data sets that are present; a method is trained on all of them together.
        config: Configuration of the bank; None is the plan's preset.

    Returns:
        A cell whose result has ``sets`` (columns of :func:`score_texts` by set), ``cost``, ``seconds`` and ``log``.
    """
    task = lab.task(*lab.mixture(sets), config=config)
    settings = {
        **lab.settings(method, task),
        "test": {name: digest_prompts(lab.parts(name).test) for name in sets},
        "answers": [name for name in sets if name in QUESTION_SETS],
    }
    return Cell(f"augment-{method}", settings, lambda: _measure(lab, method, sets, task))


def _measure(lab: Lab, method: str, sets: Sequence[str], task: Task) -> Result:
    """Fit a method and score it on every set."""
    bare, prompted = fit("bare", task), fit("prompted", task)
    fitted = fit(method, task)

    def score(name: str) -> Columns:
        return score_texts(
            fitted,
            bare,
            lab.parts(name).test,
            batch_size=lab.plan.batch_size,
            answer=name in QUESTION_SETS,
            progress=lambda what, done, total: lab.progress(f"{name}: {what}", done, total),
        )

    scores = {name: score(name) for name in sets}
    tests = [lab.parts(name).test for name in sets]
    timed = [test[n] for n in range(TIMED) for test in tests if n < len(test)]
    return {
        "sets": scores,
        "cost": fitted.cost.to_dict(),
        "seconds": time_passes(fitted, bare, prompted, timed),
        "log": read_log(task.place(method)),
    }


def score_texts(
    fitted: Fitted, bare: Fitted, prompts: Sequence[Prompt], *, batch_size: int, answer: bool, progress: Progress
) -> Columns:
    """Score a method on one data set.

    Args:
        fitted: The method.
        bare: D(x).
        prompts: The examples.
        batch_size: Examples of a pass.
        answer: Whether to generate answers and compare them with the targets.
        progress: Called with the progress.

    Returns:
        ``nll`` in nats and ``tokens`` of each target. If the examples differ in knowledge, also ``nll_other`` with
        another example's knowledge, and ``harm``, KL(D(x) ‖ method) with it, in nats. With ``answer`` also ``exact``,
        ``f1`` and ``right``.
    """
    losses = nll(fitted, prompts, batch_size, progress)
    columns: Columns = {"nll": losses.tolist(), "tokens": count_tokens(prompts).tolist()}
    swapped = swap_knowledge(list(prompts), window(fitted.decoder))
    if fitted.name == "bare":
        columns |= {"nll_other": columns["nll"], "harm": [0.0] * len(prompts)}
    elif fitted.knowledge and swapped is not None:
        columns["nll_other"] = nll(fitted, swapped, batch_size, progress).tolist()
        columns["harm"] = harm(bare, fitted, swapped, batch_size, progress).tolist()
    if answer:
        answers = score_answers(fitted, prompts, batch_size, progress)
        columns |= {name: values.tolist() for name, values in answers.items()}
    return columns


def time_passes(fitted: Fitted, bare: Fitted, prompted: Fitted, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Return median seconds of one pass over one example: ``bare``, ``prompted`` and ``method``, timed in turn.

    A bank's ``method`` reads x with prepared knowledge; ``prepare`` is the time to prepare it, once for each K.
    """
    if isinstance(fitted, Injected):
        with torch.no_grad():
            seconds = time_all(fitted.model, prompts)
        names = {"bare": "bare", "prompted": "prompted", "method": "ours", "prepare": "prepare"}
        return {name: seconds[way] for name, way in names.items()}
    methods = {"bare": bare, "prompted": prompted, "method": fitted}
    times = [
        time_in_turn(
            {name: functools.partial(method.target_logits, [prompt]) for name, method in methods.items()}, TIMED_ROUNDS
        )
        for prompt in prompts[:TIMED_EXAMPLES]
    ]
    return {name: statistics.median(seconds[name] for seconds in times) for name in methods}
