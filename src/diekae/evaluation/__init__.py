"""Evaluation: how much of the gap between no knowledge and knowledge in the prompt is closed, and at what cost."""

from diekae.evaluation.evaluate import evaluate
from diekae.evaluation.metrics import Scores

__all__ = ["Scores", "evaluate"]
