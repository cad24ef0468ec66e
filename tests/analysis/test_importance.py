import math

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from analysis.hyperparameters.importance import importances
from tests.analysis.surfaces import RANGES, curve, random_rows, row, study


def test_the_importances_of_a_known_surface_are_in_its_order_with_intervals():
    rows = random_rows(lambda p: 0.9 - (p[0] - 0.6) ** 2 + 0.08 * p[2], noise_sd=0.005)
    result = importances(study(rows), "response")
    assert [(one.parameter, one.rank) for one in result.parameters] == [
        ("lr", 1),
        ("temperature", 2),
        ("dropout", 3),
    ]
    assert sum(one.mean for one in result.parameters) == pytest.approx(1)
    for one in result.parameters:
        assert 0 <= one.low <= one.mean <= one.high <= 1
        assert (one.method, one.n, one.basis) == ("response", 40, "final values, n = 40")
    assert result.is_settled


def test_what_is_first_in_noise_is_not_settled():
    result = importances(study(random_rows(lambda p: 0.9, noise_sd=0.02)), "response")
    assert result.parameters[0].mean < 0.8
    assert not result.is_settled
    assert not importances(study([]), "response").is_settled


def test_importances_are_the_same_at_every_call_and_after_other_random_numbers():
    rows = random_rows(lambda p: 0.9 + 0.05 * p[1], noise_sd=0.02)
    first = importances(study(rows), "response")
    np.random.default_rng(5).random(10)
    assert importances(study(rows), "response") == first


def test_a_log_range_counts_in_its_logarithm():
    """Half of all proposed lr lie below 0.1, in a tenth of the range's linear width."""
    rows = random_rows(lambda p: 0.9 - 0.1 * (p[0] < 0.5) + 0.12 * p[1])
    logarithmic = importances(study(rows), "response").parameters
    assert logarithmic[0].parameter == "lr"
    assert (
        logarithmic[0].mean > 0.55
    )  # of the variance lr has 0.68; in linear width it would have 0.4
    linear = {**RANGES, "lr": FloatDistribution(0.01, 1.0)}
    assert importances(study(rows, ranges=linear), "response").top[0] == "dropout"


def stopped_study(finished_count, *, early):
    """40 trials: the first `finished` ran to the end, where dropout decides; at epoch 5 it was lr."""
    rows = random_rows(lambda p: 0.9 + 0.05 * p[1])
    low, high = math.log(0.01), math.log(1.0)
    curves = {}
    for at, one in enumerate(rows):
        if early:
            share = (math.log(one["config.lr"]) - low) / (high - low)
            curves[one["trial"]] = curve(one, 5, 0.6 + 0.1 * share)
        if at >= finished_count:
            one |= {"status": "stopped", "epochs": 5}
    return study(rows, curves=curves, rungs=[5])


def test_final_values_count_from_30_finished_trials_on():
    result = importances(stopped_study(30, early=True), "response")
    assert result.top[0] == "dropout"
    assert result.parameters[0].basis == "final values, n = 30"


def test_below_30_finished_trials_the_first_rung_counts_which_stopped_trials_reach_as_well():
    result = importances(stopped_study(29, early=True), "response")
    assert result.top[0] == "lr"
    assert result.parameters[0].basis == "values at epoch 5, n = 40"


def test_repeats_are_pooled_and_other_methods_and_phases_are_not():
    rows = random_rows(lambda p: 0.9 + 0.05 * p[1])
    others = random_rows(lambda p: 0.9 + 0.05 * p[0], method="feature")
    reevaluations = [
        {**one, "phase": "reevaluate", "trial": f"again-{one['trial']}"} for one in others
    ]
    reevaluations = [{**one, "method": "response"} for one in reevaluations]
    result = importances(study([*rows, *others, *reevaluations]), "response")
    assert result.parameters[0].n == 40
    assert result.top[0] == "dropout"


@pytest.mark.parametrize(
    ("searched_study", "reason"),
    [
        (study([]), "0 trials have final values; importances need at least 10"),
        (
            study(random_rows(lambda p: p[0], repeats=1, trials=9)),
            "9 trials have final values; importances need at least 10",
        ),
        (
            stopped_study(9, early=False),
            "0 trials have values at epoch 5; importances need at least 10",
        ),
        (study(random_rows(lambda p: 0.5)), "the final values of 40 trials do not differ"),
        (study(random_rows(lambda p: 0.5), ranges={}), "no parameter was searched"),
        (
            study(random_rows(lambda p: 0.5), ranges={"lr": FloatDistribution(0.1, 0.1)}),
            "no parameter was searched",
        ),
    ],
)
def test_where_there_are_no_importances_there_is_a_reason(searched_study, reason):
    result = importances(searched_study, "response")
    assert (result.parameters, result.reason) == ((), reason)


def test_failed_trials_and_values_that_are_not_numbers_do_not_count():
    rows = random_rows(lambda p: p[0], repeats=1, trials=12)
    rows[0] |= {"status": "failed", "val_accuracy": None}
    rows[1] |= {"val_accuracy": math.nan}
    rows[2] |= {"config.lr": None}
    assert importances(study(rows), "response").reason.startswith("9 trials")


def test_choices_and_whole_numbers_have_importances():
    ranges = {
        "pool": CategoricalDistribution(["mean", "max", "none"]),
        "steps": IntDistribution(1, 5),
        "lr": FloatDistribution(0.01, 1.0, log=True),
    }
    rows = random_rows(lambda p: 0.9 - 0.1 * (p[0] < 1 / 3) + 0.02 * p[1], ranges=ranges)
    result = importances(study(rows, ranges=ranges), "response")
    assert result.top == ["pool", "steps", "lr"]


def test_one_parameter_has_all_the_importance():
    rows = [row("response", 0, n, 0.5 + 0.01 * n, lr=0.02 * (n + 1)) for n in range(10)]
    (only,) = importances(study(rows, ranges={"lr": RANGES["lr"]}), "response").parameters
    assert (only.mean, only.low, only.high) == (1, 1, 1)
