"""The training objectives, one file each: ``difference``, ``cross_entropy`` and ``distill``."""

from collections.abc import Callable

from diekae.training.objectives.base import LossSums, Objective, parts_of, unexplained
from diekae.training.objectives.cross_entropy import CrossEntropyObjective
from diekae.training.objectives.difference import DifferenceObjective, difference_objective
from diekae.training.objectives.distill import DistillObjective
from diekae.training.objectives.reading import injected_logits, prepare_batch

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "difference": difference_objective,
    "cross_entropy": CrossEntropyObjective,
    "distill": DistillObjective,
}

__all__ = [
    "OBJECTIVES",
    "CrossEntropyObjective",
    "DifferenceObjective",
    "DistillObjective",
    "LossSums",
    "Objective",
    "difference_objective",
    "injected_logits",
    "parts_of",
    "prepare_batch",
    "unexplained",
]
