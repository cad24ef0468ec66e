"""A/A studies: what counts as a claim, how many are too many, and one real study from search to verdict."""

from dataclasses import replace

import pytest

from analysis.comparison import stats
from benchmarks.aa import __main__ as aa
from tune_kd.space import loader

QUIET = aa.Outcome(
    seed=1, label=stats.NOT_SETTLED, mean=0.001, low=-0.01, high=0.012, repeats=5,
    by_repeat={0: 0.001}, default=0.0,
)  # fmt: skip


def test_both_methods_of_the_space_are_the_baseline_with_its_trials():
    space, _ = loader.load(str(aa.SPACE))
    digits, _ = loader.load("digits_kd")
    assert space.methods == {"no_kd": digits.methods["no_kd"], aa.TWIN: digits.methods["no_kd"]}
    assert space.trials / 2 == digits.trials / 4
    assert (space.task, space.student) == (digits.task, digits.student)


@pytest.mark.parametrize(
    ("label", "claims"),
    [
        (stats.NOT_SETTLED, 0), (stats.NO_DIFFERENCE, 0), (stats.TOO_FEW, 0), (stats.HELPS, 1),
        (stats.HURTS, 1), (stats.SMALL_HELP, 1), (stats.SMALL_HURT, 1),
    ],
)  # fmt: skip
def test_whoever_says_helps_or_hurts_of_a_twin_is_wrong(label, claims):
    assert aa.count_claims([replace(QUIET, label=label)]) == claims


def test_the_summary_counts_claims_and_intervals_that_hold_0():
    outcomes = [QUIET, replace(QUIET, seed=2, label=stats.HELPS, mean=0.02, low=0.01, high=0.03)]
    lines = list(aa.summary(outcomes))
    assert lines[0] == f"2 A/A studies: 1 say something, {aa.allowed(2)} may"
    assert "the 95 % interval holds 0 in 1 of 2" in lines
    assert "| 2 | helps | +2.00 [+1.00, +3.00] | 5 |" in lines


@pytest.mark.slow
def test_a_study_is_searched_confirmed_and_judged_by_the_products_commands(tmp_path):
    options = ["--trials", "30", "--epochs", "1", "--limit-train", "300"]
    outcome = aa.run_study(7, tmp_path, options=options, seeds=1)
    assert outcome.repeats == 3
    assert set(outcome.by_repeat) == {0, 1, 2}
    assert outcome.default == 0.0  # the same settings, seeds, views: the same students
    assert outcome == aa.run_study(
        7, tmp_path, options=options, seeds=1
    )  # nothing is trained again
