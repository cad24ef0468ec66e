"""Mean, spread and paired differences: numbers that never travel without their n.

Values are fractions in [0, 1] or differences of them; tables turn them into percent.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import scipy.stats

MIN_SEEDS = 3  # for a verdict
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Mean and standard deviation (n - 1 in the denominator; None where n = 1) of n values."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of n paired differences with its t interval, None at both ends where n = 1."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def verdict(self) -> str:
        """One of "helps", "hurts", "no evidence" (0 in the interval), "too few seeds" (n < 3)."""
        if self.n < MIN_SEEDS or self.low is None or self.high is None:
            return "too few seeds"
        if self.low > 0:
            return "helps"
        return "hurts" if self.high < 0 else "no evidence"


def summarise(values: Iterable[float]) -> Summary | None:
    """Mean, sd and n; None where there are no values.

    >>> summarise([1.0, 2.0, 3.0])
    Summary(mean=2.0, sd=1.0, n=3)
    >>> summarise([1.0])
    Summary(mean=1.0, sd=None, n=1)
    """
    found = list(values)
    if not found:
        return None
    sd = statistics.stdev(found) if len(found) > 1 else None
    return Summary(mean=statistics.fmean(found), sd=sd, n=len(found))


def paired(treated: Mapping[int, float], control: Mapping[int, float]) -> Difference | None:
    """`treated` minus `control` over the seeds that both have, with a 95 % Student t interval.

    None where they share no seed. The interval speaks of training seeds, not of the choice of
    test images: mean -+ t(0.975, n - 1) * sd / sqrt(n).
    """
    summary = summarise(differences(treated, control).values())
    if summary is None:
        return None
    if summary.sd is None:
        return Difference(mean=summary.mean, low=None, high=None, n=summary.n)
    quantile = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, summary.n - 1))
    half = quantile * summary.sd / math.sqrt(summary.n)
    return Difference(
        mean=summary.mean, low=summary.mean - half, high=summary.mean + half, n=summary.n
    )


def differences(treated: Mapping[int, float], control: Mapping[int, float]) -> dict[int, float]:
    """`treated` minus `control` by seed, for the seeds that both have, in their order.

    >>> differences({1: 3.0, 2: 5.0}, {2: 4.0, 3: 1.0})
    {2: 1.0}
    """
    return {seed: treated[seed] - control[seed] for seed in sorted(treated.keys() & control.keys())}
