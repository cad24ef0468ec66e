import math

import numpy as np
import pytest

from benchmarks.ranking import check_order, first_order
from tests.analysis.surfaces import RANGES, random_rows, study


def surface(places):
    """lr in a curve, temperature in a slope, dropout in nothing."""
    return 0.9 - 0.4 * (places[:, 0] - 0.6) ** 2 + 0.06 * places[:, 2]


def studies(function, *, count, repeats, noise_sd=0.01):
    return [
        study(
            random_rows(
                lambda p: function(np.array([p]))[0],
                repeats=repeats,
                noise_sd=noise_sd,
                seed=number,
            )
        )
        for number in range(count)
    ]


def test_the_true_importances_of_a_sum_are_the_variances_of_its_terms():
    truth = first_order(lambda places: 2 * places[:, 0] + places[:, 2], list(RANGES))
    assert truth == pytest.approx({"lr": 0.8, "dropout": 0, "temperature": 0.2}, abs=0.02)


def test_importances_of_five_searches_of_eight_put_the_true_first_parameter_first():
    truth = first_order(surface, list(RANGES))
    assert sorted(truth, key=lambda name: -truth[name]) == ["lr", "temperature", "dropout"]
    order = check_order(studies(surface, count=6, repeats=5), "response", truth=truth)
    assert (order.studies, order.silent) == (6, 0)
    assert order.first >= 5  # by luck in 2 % of such tests
    assert order.correlation > 0.6
    assert order.low < order.share <= order.high


def test_importances_that_are_wrong_are_found_out():
    wrong = {"lr": 0.0, "temperature": 0.3, "dropout": 0.7}
    order = check_order(studies(surface, count=2, repeats=5, noise_sd=0), "response", truth=wrong)
    assert (order.first, order.share) == (0, 0)
    assert order.correlation == pytest.approx(-1)


def test_studies_that_say_nothing_are_counted_apart():
    few = studies(surface, count=2, repeats=1)
    order = check_order(few, "response", truth=dict.fromkeys(RANGES, 0.0))
    assert (order.studies, order.silent, order.first) == (0, 2, 0)
    assert math.isnan(order.share)
    assert math.isnan(order.low)
