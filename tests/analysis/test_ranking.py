import math

import numpy as np
import pytest

from benchmarks.ranking import check_order, first_order
from tests.analysis.surfaces import RANGES, drawn, study


def surface(places):
    """lr in a curve, temperature in a slope, dropout in nothing."""
    return 0.9 - 0.4 * (places[:, 0] - 0.6) ** 2 + 0.06 * places[:, 2]


def studies(made, *, count, repeats, noise_sd=0.01):
    return [
        study(
            drawn(lambda p: made(np.array([p]))[0], repeats=repeats, noise_sd=noise_sd, seed=number)
        )
        for number in range(count)
    ]


def test_the_true_importances_of_a_sum_are_the_variances_of_its_terms():
    truth = first_order(lambda places: 2 * places[:, 0] + places[:, 2], list(RANGES))
    assert truth == pytest.approx({"lr": 0.8, "dropout": 0, "temperature": 0.2}, abs=0.02)


def test_importances_of_five_searches_of_eight_put_the_true_first_parameter_first():
    truth = first_order(surface, list(RANGES))
    assert sorted(truth, key=lambda name: -truth[name]) == ["lr", "temperature", "dropout"]
    found = check_order(studies(surface, count=6, repeats=5), "response", truth=truth)
    assert (found.studies, found.silent) == (6, 0)
    assert found.first >= 5  # by luck in 2 % of such tests
    assert found.correlation > 0.6
    assert found.low < found.share <= found.high


def test_importances_that_are_wrong_are_found_out():
    wrong = {"lr": 0.0, "temperature": 0.3, "dropout": 0.7}
    found = check_order(studies(surface, count=2, repeats=5, noise_sd=0), "response", truth=wrong)
    assert (found.first, found.share) == (0, 0)
    assert found.correlation == pytest.approx(-1)


def test_studies_that_say_nothing_are_counted_apart():
    few = studies(surface, count=2, repeats=1)
    found = check_order(few, "response", truth=dict.fromkeys(RANGES, 0.0))
    assert (found.studies, found.silent, found.first) == (0, 2, 0)
    assert math.isnan(found.share)
    assert math.isnan(found.low)
