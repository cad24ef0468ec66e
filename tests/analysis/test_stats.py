"""Means, spreads and intervals against numbers computed by hand."""

import math

import pytest

from analysis import stats


def test_mean_sd_and_n_by_hand():
    # deviations -1, 0, 1: sum of squares 2, divided by n - 1 = 2
    assert stats.summarise([4.0, 5.0, 6.0]) == stats.Summary(mean=5.0, sd=1.0, n=3)
    assert stats.summarise([4.0]) == stats.Summary(mean=4.0, sd=None, n=1)
    assert stats.summarise([]) is None


def test_the_paired_interval_by_hand():
    # differences 1, 2, 3: mean 2, sd 1, n 3; t(0.975, 2) = 4.302653 from a printed table
    found = stats.paired({1: 2.0, 2: 4.0, 3: 6.0}, {1: 1.0, 2: 2.0, 3: 3.0, 9: 7.0})
    half = 4.302653 / math.sqrt(3)
    assert (found.mean, found.n) == (2.0, 3)
    assert found.low == pytest.approx(2 - half, abs=1e-6)
    assert found.high == pytest.approx(2 + half, abs=1e-6)


def test_pairing_removes_what_seeds_share():
    control = {seed: float(10 * seed) for seed in range(5)}
    treated = {seed: value + 1 for seed, value in control.items()}
    assert stats.paired(treated, control) == stats.Difference(mean=1.0, low=1.0, high=1.0, n=5)


def test_one_pair_has_no_interval_and_none_has_no_difference():
    assert stats.paired({1: 2.0}, {1: 1.0}) == stats.Difference(mean=1.0, low=None, high=None, n=1)
    assert stats.paired({1: 2.0}, {2: 1.0}) is None


@pytest.mark.parametrize(
    ("low", "high", "n", "verdict"),
    [
        (0.1, 0.2, 3, "helps"),
        (-0.2, -0.1, 3, "hurts"),
        (-0.1, 0.1, 3, "no evidence"),
        (0.0, 0.1, 3, "no evidence"),
        (0.1, 0.2, 2, "too few seeds"),
        (None, None, 1, "too few seeds"),
    ],
)
def test_verdicts(low, high, n, verdict):
    assert stats.Difference(mean=0.0, low=low, high=high, n=n).verdict == verdict
