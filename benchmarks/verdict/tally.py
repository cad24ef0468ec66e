"""How often the sentences are right: shares with their intervals, and the bounds that they must keep."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from scipy.stats import binomtest

from analysis.comparison import stats

SAYS = {stats.HELPS: 1, stats.SMALL_HELP: 1, stats.HURTS: -1, stats.SMALL_HURT: -1}
SAYS_SMALL = (stats.NO_DIFFERENCE, stats.SMALL_HELP, stats.SMALL_HURT)
NOMINAL = 0.05
COVERAGE = (0.93, 0.99)
SLACK = 1e-9  # an effect of exactly the margin counts as one that large


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many of n, of which it is known how many."""

    k: int
    n: int

    @property
    def value(self) -> float:
        """The share itself."""
        return self.k / self.n

    def __str__(self) -> str:
        """In percent with its 95 % interval (Wilson).

        >>> str(Share(k=5, n=100))
        '5.0 [2.2, 11.2]'
        """
        low, high = binomtest(self.k, self.n).proportion_ci(method="wilson")
        return f"{self.value * 100:.1f} [{low * 100:.1f}, {high * 100:.1f}]"


def most_wrong(studies: int) -> float:
    """Return the share of studies that may be wrong: 5 % and two standard errors.

    >>> round(most_wrong(1000), 3), round(most_wrong(100), 3)
    (0.064, 0.094)
    """
    return NOMINAL + 2 * math.sqrt(NOMINAL * (1 - NOMINAL) / studies)


def score(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Outcomes with what is claimed (1: it helps, -1: it hurts, 0: neither) and whether that is wrong.

    A direction is wrong where there is none or the other one; "no difference" and "by less than m"
    where the difference is at least the scenario's margin m.
    """
    claims = outcomes["label"].map(SAYS).fillna(0).astype(int)
    sign = (outcomes["truth"] > 0).astype(int) - (outcomes["truth"] < 0).astype(int)
    small = outcomes["label"].isin(SAYS_SMALL)
    large = outcomes["truth"].abs() >= outcomes["margin"] - SLACK
    return outcomes.assign(
        said=claims,
        wrong=(claims != 0) & (claims != sign),
        seen=(claims == sign) & (sign != 0),
        wrongly_small=small & large,
        old_wrong=(outcomes["old"] != 0) & (outcomes["old"] != sign),
        old_seen=(outcomes["old"] == sign) & (sign != 0),
    )


def any_of(frame: pd.DataFrame, column: str) -> Share:
    """Return the studies in which something is so of any method."""
    by_study = frame.groupby("study")[column].any()
    return Share(k=int(by_study.sum()), n=len(by_study))


def share_of(values: "pd.Series[bool]") -> Share:
    """Return the share of all methods of all studies."""
    return Share(k=int(values.sum()), n=len(values))


def claims_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row a scenario: what is said of its methods, in percent of them, and what of that is wrong."""
    return _table(frame, _claims_of)


def _claims_of(of: pd.DataFrame) -> dict[str, str]:
    labels = of["label"]
    return {
        "helps": _percent(of["said"] == 1),
        "hurts": _percent(of["said"] == -1),
        "no difference": _percent(labels == stats.NO_DIFFERENCE),
        "not settled": _percent(labels == stats.NOT_SETTLED),
        "wrong of any, % of studies": str(any_of(of, "wrong")),
        "wrongly < m of any": str(any_of(of, "wrongly_small")),
        "covered, %": str(share_of(of["covered"])),
    }


def old_way_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row a scenario: one search and many seeds, beside as many trials and seeds in repeats."""
    return _table(frame, _old_of)


def _old_of(of: pd.DataFrame) -> dict[str, str]:
    effects = of[of["truth"] != 0]
    return {
        "effect seen, %": str(share_of(effects["seen"])) if len(effects) else "-",
        "old way": str(share_of(effects["old_seen"])) if len(effects) else "-",
        "wrong of any, % of studies": str(any_of(of, "wrong")),
        "old way ": str(any_of(of, "old_wrong")),
        "half width, points": f"{of['half_width'].mean() * 100:.2f}",
        "old way  ": f"{of['old_half_width'].mean() * 100:.2f}",
    }


def rest_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row a scenario: the other two comparisons' coverage, the winner's curse, the error from images."""
    return _table(frame, _rest_of)


def _rest_of(of: pd.DataFrame) -> dict[str, str]:
    return {
        "default covered, %": str(share_of(of["default_covered"])),
        "student covered, %": str(share_of(of["student_covered"])),
        "winner's curse, points": f"{of['curse'].mean() * 100:+.2f}",
        "old way": f"{of['old_curse'].mean() * 100:+.2f}",
        "error from images, points": f"{of['image_se'].mean() * 100:.2f}",
    }


def broken_bounds(frame: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence for each bound that a scenario breaks."""
    low, high = COVERAGE
    for scenario, of in frame.groupby("scenario", sort=False):
        studies = of["study"].nunique()
        most, slack = most_wrong(studies), 2 * math.sqrt(NOMINAL * (1 - NOMINAL) / studies)
        for column, claim in (
            ("wrong", "a wrong direction"),
            ("wrongly_small", "a wrong 'less than m'"),
        ):
            share = any_of(of, column)
            if share.value > most:
                bound = f"at most {most * 100:.1f}"
                yield f"{scenario}: {claim} of any method in {share} % of studies; {bound}"
        covered = share_of(of["covered"])
        least, top = min(low, 1 - NOMINAL - slack), max(high, 1 - NOMINAL + slack)
        if not least <= covered.value <= top:
            bounds = f"{least * 100:.1f} to {top * 100:.1f}"
            yield f"{scenario}: {covered} % of intervals hold the truth; {bounds}"


def _percent(values: "pd.Series[bool]") -> str:
    return f"{values.mean() * 100:.1f}"


def _table(frame: pd.DataFrame, columns: Callable[[pd.DataFrame], dict[str, str]]) -> pd.DataFrame:
    by_scenario = frame.groupby("scenario", sort=False)
    return pd.DataFrame([{"scenario": name, **columns(of)} for name, of in by_scenario])
