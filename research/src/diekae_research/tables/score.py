"""What a method is scored with on prompts whose targets are texts: numbers of each example, and seconds a pass.

Everything is kept example by example, so that tables compute any figure, and its interval, without running a model.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence

import torch

from diekae.data.prompt import Prompt
from diekae.evaluation.evaluate import TIMED_EXAMPLES, TIMED_ROUNDS, swap_knowledge, time_all
from diekae.fingerprint import window
from diekae.progress import Progress
from diekae.run.timing import time_in_turn
from diekae_research.evaluation.scoring import harm, nll, score_answers
from diekae_research.methods import Fitted
from diekae_research.methods.ours import Injected

Columns = dict[str, list[float]]
"""Numbers of each example, by name."""


def score_texts(
    fitted: Fitted, bare: Fitted, prompts: Sequence[Prompt], *, batch_size: int, answer: bool, progress: Progress
) -> Columns:
    """Score a method on one data set.

    Args:
        fitted: The method.
        bare: D(x).
        prompts: What is reported.
        batch_size: Examples a pass.
        answer: Whether answers are generated and compared with the target.
        progress: Told how far it is.

    Returns:
        ``nll`` in nats and ``tokens`` of each target; where examples differ in knowledge, ``nll_other`` with another
        example's and ``harm``, KL(D(x) ‖ method) under it, in nats; ``exact`` and ``f1`` of answers.
    """
    own = nll(fitted, prompts, batch_size, progress)
    found: Columns = {"nll": own.total.tolist(), "tokens": own.tokens.tolist()}
    swapped = swap_knowledge(list(prompts), window(fitted.decoder))
    if not fitted.knowledge:
        found |= {"nll_other": found["nll"], "harm": [0.0] * len(prompts)} if fitted.name == "bare" else {}
    elif swapped is not None:
        found["nll_other"] = nll(fitted, swapped, batch_size, progress).total.tolist()
        found["harm"] = harm(bare, fitted, swapped, batch_size, progress).total.tolist()
    if answer:
        said = score_answers(fitted, prompts, batch_size, progress)
        found |= {"exact": said.exact.tolist(), "f1": said.f1.tolist(), "right": said.right.tolist()}
    return found


def time_passes(fitted: Fitted, bare: Fitted, prompted: Fitted, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Return median seconds of one pass over one example, D(x), D(K, x) and the method in turn, warmed up.

    ``method`` reads x with K prepared where the method prepares it, and ``prepare`` is what that takes, once a K.
    """
    if isinstance(fitted, Injected):
        with torch.no_grad():
            found = time_all(fitted.model, prompts, None)
        names = {"bare": "bare", "prompted": "prompted", "method": "ours", "prepare": "prepare"}
        return {name: found[way] for name, way in names.items()}
    methods = {"bare": bare, "prompted": prompted, "method": fitted}
    taken = [
        time_in_turn(
            {name: functools.partial(method.target_logits, [prompt]) for name, method in methods.items()}, TIMED_ROUNDS
        )
        for prompt in prompts[:TIMED_EXAMPLES]
    ]
    return {name: statistics.median(one[name] for one in taken) for name in methods}
