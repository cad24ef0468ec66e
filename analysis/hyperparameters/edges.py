"""Ranges that the best trials press against an end of, said only where chance hardly does it.

Where no parameter matters, winners still stand somewhere: one winner lies within 5 % of an end of
one of 19 ranges nearly always. So the mean position of several is asked: under chance a winner's
positions are uniform, and the mean of k of them has the Bates distribution. All ends of all methods
share an expected 0.04 of such sentences a report. Winners of eight trials of TPE on pure noise
stand near ends a little more often (sd 0.31, uniform 0.29; 900 searches), which makes it 0.08 of a
report with 19 ranges.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.distributions import FloatDistribution, IntDistribution
from scipy.stats import irwinhall

from analysis.hyperparameters.ranges import Ranges, position, ranges
from analysis.study import Study
from tune_kd.study.results import Row, rank_trials

SENTENCES = 0.04  # expected in a report in which no parameter matters, at all ends together
MIN_REPEATS = 3
TOP = 5  # trials that speak where there are fewer repeats
CLUSTERS = 2  # as how many independent ones they count
GIVEN = ("default", "published")  # origins: written down by somebody, not drawn from the range


@dataclass(frozen=True, kw_only=True)
class Edge:
    """An end of a range beside which a method's best trials stand."""

    method: str
    parameter: str
    end: str  # lower, upper
    distance: float  # of their mean position from this end, a fraction of the range
    n: int  # trials
    p: float  # how often chance brings a mean as near to this end


def edges(study: Study, method: str) -> list[Edge]:
    """Return the ends of a method's ranges that its best trials stand beside beyond chance, in the ranges' order.

    The best are the winners of the repeats, each the best finished trial that its sampler drew;
    with fewer than three repeats the five best of all. A lower end of 0 is none: nothing lies
    below.
    """
    number_ranges = _numbers(ranges(study, method))
    best, independent = _best(study, method)
    if not number_ranges or not best:
        return []
    level = SENTENCES / (2 * sum(len(_numbers(ranges(study, name))) for name in study.methods))
    edge_list = []
    for name, distribution in number_ranges.items():
        mean = statistics.fmean(position(distribution, row[f"config.{name}"]) for row in best)
        end, distance = ("lower", mean) if mean < 0.5 else ("upper", 1 - mean)
        p = chance(distance, independent)
        if p < level and not (end == "lower" and distribution.low == 0):
            edge = Edge(method=method, parameter=name, end=end, distance=distance, n=len(best), p=p)
            edge_list.append(edge)
    return edge_list


def chance(distance: float, count: int) -> float:
    """Return the probability that the mean of `count` uniform numbers in [0, 1] is at most `distance`.

    Their sum has the Irwin-Hall distribution.

    >>> round(chance(0.5, 5), 6), round(chance(0.1, 2), 6)
    (0.5, 0.02)
    """
    return float(irwinhall.cdf(count * distance, count))


def _numbers(all_ranges: Ranges) -> dict[str, FloatDistribution | IntDistribution]:
    return {
        name: distribution
        for name, distribution in all_ranges.items()
        if isinstance(distribution, FloatDistribution | IntDistribution)
    }


def _best(study: Study, method: str) -> tuple[Sequence[Row], int]:
    """Return the trials that speak, and as how many independent ones they count; none where there are too few.

    Proposals of one search crowd: where nothing matters, the mean of the best five of 40 trials of
    TPE spreads as the mean of two uniform numbers does (sd 0.22, measured over 310 searches; of 8
    trials 0.15, where five uniform numbers have 0.13).
    """
    constraints = study.manifest.constraints
    order = rank_trials(study.rows, method, metric=study.metric, constraints=constraints)
    names = [f"config.{name}" for name in ranges(study, method)]
    rows = [
        row
        for row in order
        if row.get("origin") not in GIVEN and all(row.get(name) is not None for name in names)
    ]
    winners: dict[int, Row] = {}
    for row in rows:
        winners.setdefault(row.get("repeat") or 0, row)
    if len(winners) >= MIN_REPEATS:
        return list(winners.values()), len(winners)
    return (rows[:TOP], CLUSTERS) if len(rows) >= TOP else ([], 0)
