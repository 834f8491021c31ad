"""Knowledge augmentation, the paper's main task (section 5.1): a cell trains one method on a mixture and scores it.

Tables 1 and 5 and figure 3 show such cells, so a cell that one of them has measured serves the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from diekae.config import DiekaeConfig
from diekae_research.cells import Cell, Result, digest_prompts, read_log
from diekae_research.methods import Task, fit
from diekae_research.tables.lab import Lab
from diekae_research.tables.plan import QUESTION_SETS
from diekae_research.tables.score import Columns, score_texts, time_passes

SETS = ("cmu_dog", "curiosity", "dream", "natural_questions", "quasar_t", "wizard_of_wikipedia")
"""The paper's data sets (section 4.1)."""
TIMED = 8
"""Examples of each data set whose passes are timed."""


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
