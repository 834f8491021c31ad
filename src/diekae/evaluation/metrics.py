"""Measures computed from negative log-likelihoods (design, section 6)."""

import math
from dataclasses import dataclass

LEAST_GAP = 0.05
"""Smallest gap, in nats per token, that is divided by."""


@dataclass(frozen=True)
class Scores:
    """Token-weighted mean NLL, in nats per target token, of one data set."""

    bare: float
    """D(x): no knowledge."""
    prompted: float
    """D(K, x): knowledge in the prompt."""
    ours: float
    """Knowledge injected."""
    prompted_other: float | None = None
    """D(K′, x): another example's knowledge in the prompt."""
    ours_other: float | None = None
    """Another example's knowledge injected."""

    @property
    def recovered(self) -> float | None:
        """Return the share of the gap between D(x) and D(K, x) that is closed; None if the gap is below 0.05 nats."""
        return _share(self.bare - self.ours, self.bare - self.prompted)

    @property
    def grounded(self) -> float | None:
        """Return what another example's K costs ours, as a share of what it costs D; None as for ``recovered``."""
        if self.ours_other is None or self.prompted_other is None:
            return None
        return _share(self.ours_other - self.ours, self.prompted_other - self.prompted)


def _share(part: float, gap: float) -> float | None:
    return part / gap if gap >= LEAST_GAP else None


def perplexity(nll: float) -> float:
    """Return e^NLL."""
    return math.exp(min(nll, 700.0))


def mean_defined(values: list[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if all are."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
