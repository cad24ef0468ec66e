"""Means, intervals and verdicts against scipy, against numbers computed by hand, and simulated."""

import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from analysis.comparison import stats
from analysis.comparison.stats import Estimate, estimate, rule


def interval(
    mean: float, *, sd: float | None = 0.01, n: int = 5, image_se: float = 0.0
) -> Estimate:
    """An estimate of n differences that have exactly this mean and sd."""
    if sd is None:
        return estimate([mean], image_se=image_se)
    shape = np.linspace(-1, 1, n)
    return estimate(mean + sd * shape / shape.std(ddof=1), image_se=image_se)


def test_mean_sd_and_n_by_hand():
    # deviations -1, 0, 1: sum of squares 2, divided by n - 1 = 2
    assert stats.summarise([4.0, 5.0, 6.0]) == stats.Summary(mean=5.0, sd=1.0, n=3)
    assert stats.summarise([4.0]) == stats.Summary(mean=4.0, sd=None, n=1)
    assert stats.summarise([]) is None


def test_what_is_no_number_is_not_counted():
    assert stats.summarise([math.nan, 4.0, math.inf]) == stats.Summary(mean=4.0, sd=None, n=1)
    assert stats.summarise([math.nan]) is None
    assert estimate([math.nan, 1.0, 2.0]) == estimate([1.0, 2.0])
    assert estimate([math.nan]) is estimate([]) is None


def test_the_paired_interval_by_hand():
    # differences 1, 2, 3: mean 2, sd 1, n 3; t(0.975, 2) = 4.302653 from a printed table
    one = stats.paired({1: 2.0, 2: 4.0, 3: 6.0}, {1: 1.0, 2: 2.0, 3: 3.0, 9: 7.0})
    half = 4.302653 / math.sqrt(3)
    assert (one.mean, one.sd, one.n) == (2.0, 1.0, 3)
    assert one.low == pytest.approx(2 - half, abs=1e-6)
    assert one.high == pytest.approx(2 + half, abs=1e-6)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40])
@pytest.mark.parametrize("effect", [0.0, 0.003, -0.02, 0.2])
def test_without_error_from_images_it_is_scipys_paired_t_test(n, effect):
    random = np.random.default_rng(n)
    control = dict(enumerate(random.normal(0.9, 0.02, n)))
    treatment = dict(enumerate(random.normal(0.9 + effect, 0.01, n)))
    ours = stats.paired(treatment, control)
    theirs = scipy.stats.ttest_rel(list(treatment.values()), list(control.values()))
    low, high = theirs.confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((low, high), rel=1e-9)
    assert ours.p_value() == pytest.approx(theirs.pvalue, rel=1e-9)
    each = list(stats.differences(treatment, control).values())
    for margin in (0.001, 0.005, 0.05):
        above = scipy.stats.ttest_1samp(each, -margin, alternative="greater").pvalue
        below = scipy.stats.ttest_1samp(each, margin, alternative="less").pvalue
        assert ours.p_equivalence(margin) == pytest.approx(max(above, below), rel=1e-9)


def test_images_alone_make_a_normal_interval():
    one = interval(0.01, sd=0.0, image_se=0.004)
    assert (one.low, one.high) == pytest.approx((0.01 - 1.959964 * 0.004, 0.01 + 1.959964 * 0.004))
    assert one.p_value() == pytest.approx(2 * scipy.stats.norm.sf(2.5))


@pytest.mark.parametrize("sd", [0.0, 0.004, 0.02])
@pytest.mark.parametrize("image_se", [0.002, 0.01])
def test_p_is_where_the_interval_touches(sd, image_se):
    """p = 0.05 where an end of the 95 % interval is 0; the 90 % interval is what TOST asks for."""
    half = interval(0.0, sd=sd, image_se=image_se).high
    assert interval(half, sd=sd, image_se=image_se).p_value() == pytest.approx(0.05)
    assert interval(-half, sd=sd, image_se=image_se).p_value() == pytest.approx(0.05)
    assert interval(0.0, sd=sd, image_se=image_se).p_value() == 1.0
    assert interval(0.0, sd=sd, image_se=image_se).p_equivalence(half) == pytest.approx(0.025)
    assert interval(half, sd=sd, image_se=image_se).p_equivalence(half) == pytest.approx(0.5)
    assert interval(2 * half, sd=sd, image_se=image_se).p_equivalence(half) > 0.95


@pytest.mark.parametrize("image_se", [0.0, 0.003])
def test_one_difference_has_no_interval_and_no_p(image_se):
    one = interval(0.02, sd=None, image_se=image_se)
    assert one == Estimate(mean=0.02, low=None, high=None, n=1, sd=None, image_se=image_se)
    assert one.p_value() is one.p_equivalence(0.005) is None
    assert stats.paired({1: 2.0}, {2: 1.0}) is None


def test_equal_differences_leave_no_doubt():
    same, apart = interval(0.0, sd=0.0), interval(0.02, sd=0.0)
    assert (same.low, same.high, same.p_value(), same.p_equivalence(0.005)) == (0, 0, 1.0, 0.0)
    assert (apart.low, apart.high, apart.p_value(), apart.p_equivalence(0.005)) == (
        0.02,
        0.02,
        0.0,
        1.0,
    )


def test_hardly_any_spread_gives_a_p_near_zero():
    for sd in (1e-300, 1e-16, 1e-9):
        one = estimate([0.5, 0.5 + sd, 0.5 - sd, 0.5])
        assert 0 <= one.p_value() < 1e-15
        assert 1 - 1e-15 <= one.p_equivalence(0.005) <= 1


def test_looks_share_five_percent():
    assert [stats.look_level(look) for look in (1, 2, 3)] == [0.04, 0.005, 0.0025]
    assert 0.0499 < sum(stats.look_level(look) for look in range(1, 60)) <= 0.05
    with pytest.raises(ValueError, match="looks count from 1"):
        stats.look_level(0)


@pytest.mark.parametrize(
    ("mean", "sd", "label"),
    [
        (0.02, 0.005, "helps"),
        (-0.02, 0.005, "hurts"),
        (0.0, 0.002, "no difference"),
        (0.002, 0.0005, "helps, by less than m"),
        (-0.002, 0.0005, "hurts, by less than m"),
        (0.004, 0.01, "not settled"),
        (0.0, 0.0, "no difference"),
        (0.02, 0.0, "helps"),
    ],
)
def test_labels(mean, sd, label):
    one = rule({"a": interval(mean, sd=sd)}, margin=0.005, level=0.05)["a"]
    assert one.label == label
    assert (one.repeats_needed is not None) == (label == "not settled")


@pytest.mark.parametrize(
    ("n", "label"), [(1, "too few repeats"), (2, "too few repeats"), (3, "helps")]
)
def test_three_repeats_are_the_fewest(n, label):
    one = interval(0.02, sd=None) if n == 1 else interval(0.02, sd=0.0001, n=n)
    verdict = rule({"a": one}, margin=0.005, level=0.05)["a"]
    assert verdict.label == label
    assert (verdict.p is None) == (verdict.p_equivalence is None) == (n < 3)


def test_nothing_to_judge():
    assert rule({}, margin=0.005, level=0.04) == {}


def test_holm_by_hand():
    """p 0.01, 0.02, 0.04 of three: times 3, times 2, times 1, never falling."""
    estimates = {}
    for name, p in (("b", 0.04), ("c", 0.01), ("a", 0.02)):
        distance = -scipy.stats.t.ppf(p / 2, 4) * 0.01 / math.sqrt(5)
        estimates[name] = interval(distance)
    estimates["few"] = interval(0.5, n=2)  # takes no part, and is not counted
    verdicts = rule(estimates, margin=0.005, level=0.035)
    assert list(verdicts) == ["b", "c", "a", "few"]
    assert [verdicts[name].p for name in "cab"] == pytest.approx([0.03, 0.04, 0.04])
    assert [verdicts[name].label for name in "cab"] == ["helps", "not settled", "not settled"]


def test_equivalence_has_a_holm_of_its_own():
    one = rule({"a": interval(0.0, sd=0.003)}, margin=0.005, level=0.05)["a"]
    many = rule({name: interval(0.0, sd=0.003) for name in "abc"}, margin=0.005, level=0.05)["a"]
    assert one.p_equivalence == pytest.approx(interval(0.0, sd=0.003).p_equivalence(0.005))
    assert many.p_equivalence == pytest.approx(3 * one.p_equivalence)


@pytest.mark.parametrize(("sd", "image_se"), [(0.006, 0.0), (0.012, 0.0), (0.004, 0.0015)])
def test_repeats_needed_are_those_that_find_it(sd, image_se):
    """Simulated: as many repeats see the effect in 80 % of studies, to within three errors of 2,000."""
    count = stats.repeats_needed(interval(0.0, sd=sd, image_se=image_se), effect=0.005, level=0.05)
    random = np.random.default_rng(0)
    rows = random.normal(0.005, sd, (2000, count)) + random.normal(0, image_se, (2000, 1))
    estimates = [estimate(row, image_se=image_se) for row in rows]
    share = np.mean([one.low > 0 for one in estimates])
    assert 0.77 < share < 0.88  # a whole repeat more than needed, and the interval is cautious


def test_repeats_cannot_make_up_for_images():
    blind = interval(0.0, image_se=0.004)
    assert stats.repeats_needed(blind, effect=0.005, level=0.05) is None
    assert rule({"a": blind}, margin=0.005, level=0.04)["a"].repeats_needed is None
    assert stats.repeats_needed(interval(0.0, sd=0.0), effect=0.005, level=0.05) == 3
    assert stats.repeats_needed(interval(0.0, sd=1e-12), effect=0.005, level=0.05) == 3
    # over 1,000
    assert stats.repeats_needed(interval(0.0, sd=1.0), effect=0.005, level=0.05) is None
    assert stats.repeats_needed(interval(0.0, sd=None), effect=0.005, level=0.05) is None


def test_asking_for_help_does_not_wait_for_statsmodels():
    code = "import sys, analysis.report\nassert 'statsmodels' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
