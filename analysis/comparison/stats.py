"""Means, spreads, differences with their interval, and verdicts: numbers that never travel without n.

Values are fractions in [0, 1] or differences of them; tables turn them into percent. What repeats
are to a method (independent searches), seeds are to a configuration: the same functions serve both.
The error from the choice of test images is in analysis/comparison/image_errors.py. statsmodels is
imported where it is used, so that asking a command for help does not wait for it.
"""

import math
import statistics
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import scipy.optimize
import scipy.special

MIN_REPEATS = 3  # for a verdict
CONFIDENCE = 0.95
POWER = 0.8
MOST_REPEATS = 1000  # nobody runs more: then no number of repeats is given
FIRST_LOOK, LATER_LOOKS = 0.04, 0.01  # how the 5 % of error are spent (alpha spending)

HELPS, HURTS = "helps", "hurts"
SMALL_HELP, SMALL_HURT = "helps, by less than m", "hurts, by less than m"
NO_DIFFERENCE, NOT_SETTLED = "no difference", "not settled"
TOO_FEW = "too few repeats"

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Mean and standard deviation (n - 1 in the denominator; None where n = 1) of n values."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Mean of n independent differences with its 95 % interval; see `estimate`.

    `low`, `high` and `sd` (n - 1 in the denominator) are None where n = 1. `image_se` is the
    standard error from the choice of test images alone, in the unit of the mean.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    sd: float | None
    image_se: float = 0.0

    def p_value(self) -> float | None:
        """Two-sided p of "the difference is 0": one minus the level of the interval that touches 0.

        Where image_se is 0 this is the p of scipy.stats.ttest_1samp. None where n = 1.
        """
        return None if self.sd is None else min(1.0, 2 * self._tail(abs(self.mean)))

    def p_equivalence(self, margin: float) -> float | None:
        """P of "the difference is at least `margin`, one way or the other" (TOST; Schuirmann 1987).

        The larger one of two one-sided p, each from the same interval; small where the difference
        is shown to lie within -margin..margin. None where n = 1.
        """
        if self.sd is None:
            return None
        return max(self._tail(self.mean + margin), self._tail(margin - self.mean))

    def _tail(self, distance: float) -> float:
        """One-sided p of a bound that the mean lies `distance` beyond (before it: above one half)."""
        assert self.sd is not None
        half = _error_at(abs(distance), self.sd / math.sqrt(self.n), self.n - 1, self.image_se) / 2
        return half if distance > 0 else 1 - half


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What may be said of one method's difference; `p` and `p_equivalence` are Holm's adjusted ones.

    Both are None where there are too few repeats. `repeats_needed` is given where nothing is
    settled: with how many repeats in all an effect of the margin would be seen in 80 % of studies;
    None there means that no number would do, because the test images are too few.
    """

    label: str
    p: float | None
    p_equivalence: float | None
    repeats_needed: int | None


def summarise(values: Iterable[float]) -> Summary | None:
    """Mean, sd and n of the finite values; None where there are none.

    >>> summarise([1.0, 2.0, 3.0])
    Summary(mean=2.0, sd=1.0, n=3)
    >>> summarise([1.0])
    Summary(mean=1.0, sd=None, n=1)
    """
    numbers = [value for value in values if math.isfinite(value)]
    if not numbers:
        return None
    sd = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Summary(mean=statistics.fmean(numbers), sd=sd, n=len(numbers))


def estimate(differences: Iterable[float], *, image_se: float = 0.0) -> Estimate | None:
    """Mean of independent differences with a 95 % interval, None where none is finite.

    The half width is sqrt((t(0.975, n - 1) sd / sqrt n)^2 + (1.96 image_se)^2): Student's for what
    was repeated, beside it the choice of test images, which repeats do not average out. The sum of
    squares is a convention: simulated, it covers 93 to 98 %. Without `image_se` the interval is
    that of scipy.stats.ttest_1samp, and of ttest_rel where the differences are those of pairs.

    >>> interval = estimate([0.01, 0.02, 0.03])
    >>> round(interval.low, 4), round(interval.high, 4), interval.n, round(interval.p_value(), 4)
    (-0.0048, 0.0448, 3, 0.0742)
    """
    summary = summarise(differences)
    if summary is None:
        return None
    mean, sd, n = summary.mean, summary.sd, summary.n
    if sd is None:
        return Estimate(mean=mean, low=None, high=None, n=n, sd=None, image_se=image_se)
    half = _half_width(1 - CONFIDENCE, sd / math.sqrt(n), n - 1, image_se)
    return Estimate(mean=mean, low=mean - half, high=mean + half, n=n, sd=sd, image_se=image_se)


def paired(
    treatment: Mapping[K, float], control: Mapping[K, float], *, image_se: float = 0.0
) -> Estimate | None:
    """Return the estimate of `treated` minus `control` over the repeats (or seeds) that both have."""
    return estimate(differences(treatment, control).values(), image_se=image_se)


def differences(treatment: Mapping[K, float], control: Mapping[K, float]) -> dict[K, float]:
    """`treated` minus `control` by repeat or seed, for those that both have, in their order.

    >>> differences({1: 3.0, 2: 5.0}, {2: 4.0, 3: 1.0})
    {2: 1.0}
    """
    keys: list[Any] = [key for key in treatment if key in control]
    return {key: treatment[key] - control[key] for key in sorted(keys)}


def look_level(look: int) -> float:
    """Return the error that a look at the test split may spend: 0.04 at the first, then 0.01, halving.

    Looks count from 1. However often one looks, the sum stays below 0.05 (alpha spending; Lan and
    DeMets 1983).

    >>> [look_level(look) for look in (1, 2, 3)]
    [0.04, 0.005, 0.0025]
    """
    if look < 1:
        raise ValueError(f"look {look}: looks count from 1")
    return FIRST_LOOK if look == 1 else LATER_LOOKS / 2.0 ** (look - 1)


def rule(estimates: Mapping[str, Estimate], *, margin: float, level: float) -> dict[str, Verdict]:
    """Return a verdict for each method, none of them wrong in all but `level` of studies.

    Holm (1979) over the methods for "there is a difference", a Holm of its own for "none as large
    as `margin`" (a fraction). A method with fewer than three repeats takes no part.
    """
    testable = {name: estimate for name, estimate in estimates.items() if estimate.n >= MIN_REPEATS}
    differ = _holm({name: estimate.p_value() for name, estimate in testable.items()})
    equal = _holm({name: estimate.p_equivalence(margin) for name, estimate in testable.items()})
    verdicts = {}
    for name, estimate in estimates.items():
        if name not in testable:
            verdicts[name] = Verdict(label=TOO_FEW, p=None, p_equivalence=None, repeats_needed=None)
            continue
        label = _label(estimate.mean, differs=differ[name] <= level, within=equal[name] <= level)
        # each method's own test in the strictest step of Holm
        repeats = repeats_needed(estimate, effect=margin, level=level / len(testable))
        verdicts[name] = Verdict(
            label=label,
            p=differ[name],
            p_equivalence=equal[name],
            repeats_needed=repeats if label == NOT_SETTLED else None,
        )
    return verdicts


def repeats_needed(estimate: Estimate, *, effect: float, level: float) -> int | None:
    """Return the fewest repeats in all that show `effect`, two-sided at `level`, in 80 % of such studies.

    The power is statsmodels' TTestPower (noncentral t) with the spread found; the error from test
    images, which repeats do not lessen, is in it. None where 1,000 repeats would not do, or where
    there is no spread (n = 1).

    >>> repeats_needed(estimate([-0.01, 0.0, 0.01]), effect=0.01, level=0.05)
    10
    """
    if estimate.sd is None or effect <= 0:
        return None
    from statsmodels.stats.power import TTestPower

    def enough(n: int) -> bool:
        spread = math.hypot(estimate.sd or 0.0, math.sqrt(n) * estimate.image_se)
        size = min(effect / spread, 100.0) if spread else 100.0
        power = TTestPower().power(size, nobs=n, alpha=level / 2, alternative="larger")
        return not power < POWER  # next to 1 the noncentral t is NaN here and there

    counts = range(MIN_REPEATS, MOST_REPEATS + 1)
    first = bisect_left(counts, True, key=enough)
    return counts[first] if first < len(counts) else None


def _label(mean: float, *, differs: bool, within: bool) -> str:
    if not differs:
        return NO_DIFFERENCE if within else NOT_SETTLED
    if mean > 0:
        return SMALL_HELP if within else HELPS
    return SMALL_HURT if within else HURTS


def _holm(p_values: Mapping[str, float | None]) -> dict[str, float]:
    """Return adjusted p by name (Holm 1979, as statsmodels has it)."""
    if not p_values:
        return {}
    from statsmodels.stats.multitest import multipletests

    adjusted_p = multipletests(list(p_values.values()), method="holm")[1]
    return dict(zip(p_values, map(float, adjusted_p), strict=True))


def _half_width(error: float, se: float, freedom: int, image_se: float) -> float:
    """Half an interval that misses in `error` of cases: Student's t and the normal, in quadrature."""
    student = -float(scipy.special.stdtrit(freedom, error / 2))
    normal = -float(scipy.special.ndtri(error / 2))
    return math.hypot(student * se, normal * image_se)


def _error_at(distance: float, se: float, freedom: int, image_se: float) -> float:
    """`_half_width` inverted: the error at which the half width is `distance`, in [0, 1]."""
    if distance == 0:
        return 1.0
    least = -460.0  # an error of 1e-200; far below, the quantile of t has no numbers

    def excess(log_error: float) -> float:
        return _half_width(math.exp(log_error), se, freedom, image_se) - distance

    if excess(least) <= 0:  # no spread at all, or next to none
        return 0.0
    return math.exp(scipy.optimize.brentq(excess, least, 0.0, xtol=1e-13, rtol=1e-14))
