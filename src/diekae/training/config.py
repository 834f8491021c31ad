"""The configuration of one training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from diekae.fields import check_types, known_fields

Precision = Literal["auto", "fp32", "bf16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
Range = tuple[Callable[[Any], bool], str]
"""Whether a number is valid, and what is, in words."""
_POSITIVE: Range = (lambda value: value > 0, "positive")
_NOT_NEGATIVE: Range = (lambda value: value >= 0, "0 or positive")
_SHARE: Range = (lambda value: 0 <= value <= 1, "a share from 0 to 1")
_RANGES: dict[str, Range] = {
    **dict.fromkeys(("epochs", "batch_size", "gradient_accumulation", "learning_rate", "evaluations"), _POSITIVE),
    **dict.fromkeys(("calibration", "max_knowledge", "cache_limit_gb", "logging_steps"), _POSITIVE),
    **dict.fromkeys(("start_learning_rate", "final_learning_rate", "weight_decay", "clip", "patience"), _NOT_NEGATIVE),
    **dict.fromkeys(("warmup", "own_answers"), _SHARE),
    "seed": (lambda value: 0 <= value < 2**32, "from 0 to 2**32 - 1"),
    "max_steps": (lambda value: value < 2**31, "less than 2**31"),
}
"""Valid values of the fields that are numbers."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a bank is trained. The default schedule is the paper's (1e-5 → 1e-4 → 1e-5), scaled to small encoders."""

    objective: Literal["difference", "cross_entropy", "distill"] = "difference"
    """``difference``: regression on the differences of two forward passes (paper, 3.2). ``cross_entropy``: NLL of the
    target through the decoder (3.3). ``distill``: KL divergence to the distribution of D(K, x)."""
    epochs: float = 1.0
    """Passes over the training examples."""
    max_steps: int = -1
    """Optimizer steps; overrides ``epochs`` when positive."""
    batch_size: int = 16
    """Examples of one batch in one process, before accumulation."""
    group_by_length: bool = False
    """Put examples of similar length into one step. Saves padding where lengths differ much."""
    gradient_accumulation: int = 1
    """Batches of one optimizer step."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    start_learning_rate: float = 2e-4
    """Learning rate of the first step."""
    final_learning_rate: float = 1e-4
    """Lowest learning rate of the cosine."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.01
    """AdamW's decay of matrices; norms and null slots do not decay."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's β."""
    clip: float = 1.0
    """Largest gradient norm of each encoder; 0 switches clipping off."""
    precision: Precision = "fp32"
    """``fp32`` or ``bf16`` (autocast) for encoders that compute differences, or ``auto``: the faster one on this
    machine. The decoder, and the slots that its attention reads, keep the type the decoder was loaded in."""
    calibration: int = 64
    """Examples on which centre and scale of each layer's differences are measured before the first step."""
    own_answers: float = 0.0
    """Share of the examples whose target is replaced by the greedy answer of D(K, x). Distilling these gives more
    right answers than distilling a data set's short targets."""
    whole_input: bool = False
    """Under ``distill``, compare the distributions of x's tokens too, not only the target's. Reading K takes most of
    the time, and this learns more from it."""
    gradient_checkpointing: bool = False
    """Under ``cross_entropy`` and ``distill``, compute the decoder's blocks again in the backward pass. Takes less
    memory and more time; the gradients are the same."""
    max_knowledge: int | None = None
    """Longest K in tokens. The rest is cut from its end, with a warning."""
    cache: str | None = None
    """Folder for what the decoder computes from K: differences, or what encoders read of K, and for ``distill`` the
    logits of D(K, x). It is computed once; every later epoch reads it. Not for rollout ``student``."""
    cache_limit_gb: float = 16.0
    """Largest size of the cache on disk, in GB."""
    evaluations: int = 8
    """Validations in the run; each saves a checkpoint."""
    patience: int = 0
    """Validations without progress after which training stops; 0 never stops early."""
    logging_steps: int = 10
    """Steps between two log lines."""
    seed: int = 0
    """Seed of initialisation and order."""

    def __post_init__(self) -> None:
        check_types(type(self), vars(self))
        if self.whole_input and self.objective != "distill":
            raise ValueError(f"whole_input is for objective='distill', not {self.objective!r}; leave it out.")
        if self.gradient_checkpointing and self.objective == "difference":
            raise ValueError(
                "gradient_checkpointing is for objective='cross_entropy' or 'distill': 'difference' has no gradients "
                "through the decoder; leave it out."
            )
        for name, (valid, words) in _RANGES.items():
            if (value := getattr(self, name)) is not None and not valid(value):
                raise ValueError(f"{name}={value} must be {words}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={self.betas} must be at least 0 and less than 1.")
        object.__setattr__(self, "betas", tuple(self.betas))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Build from a recipe's table. Unknown keys are ignored, with a warning that names the nearest key."""
        return cls(**known_fields(cls, values, "Training"))
