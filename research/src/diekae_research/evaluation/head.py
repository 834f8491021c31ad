"""The classification head of the paper's table 2: linear, on the final hidden state of the last token of x.

Every method gets a head, trained after the method itself on fixed states. (In the paper's published code the head of
its own method is not trained.)

Shapes: n examples, W decoder width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from diekae.data.prompt import Prompt
from diekae.progress import Progress, silent
from diekae_research.methods import Fitted

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Weight decays that are tried; validation chooses."""
Numbers = NDArray[np.float64]


def collect_states(
    fitted: Fitted, prompts: Sequence[Prompt], batch_size: int = 16, progress: Progress = silent
) -> Numbers:
    """Return the state that the head reads of each prompt, [n, W]; targets are not read."""
    states = []
    for start in range(0, len(prompts), batch_size):
        batch = fitted.last_states(prompts[start : start + batch_size])
        states.append(batch.double().cpu().numpy())
        progress(f"states of {fitted.name}", min(len(prompts), start + batch_size), len(prompts))
    return np.concatenate(states)


def train_head(train: tuple[Numbers, Sequence[int]], validation: tuple[Numbers, Sequence[int]]) -> Pipeline:
    """Fit a head by multinomial logistic regression on standardised states.

    Args:
        train: States [n, W] and classes [n].
        validation: The same; chooses the weight decay by accuracy, then by loss.

    Raises:
        ValueError: There are no examples, or all are of one class.
    """

    def quality(head: Pipeline) -> tuple[float, float]:
        states, classes = validation
        known = np.isin(classes, head.classes_)  # the loss of a class that was never trained has no bound
        loss = log_loss(np.array(classes)[known], head.predict_proba(states[known]), labels=head.classes_)
        return float(head.score(states, classes)), -float(loss)

    return max((fit_head(*train, decay) for decay in DECAYS), key=quality)


def fit_head(states: Numbers, classes: Sequence[int], decay: float) -> Pipeline:
    """Minimise the mean cross-entropy plus ``decay / 2`` times the squared weights, to convergence."""
    regression = LogisticRegression(C=1 / (decay * len(classes)), tol=1e-6, max_iter=2000)
    return make_pipeline(StandardScaler(), regression).fit(states, classes)
