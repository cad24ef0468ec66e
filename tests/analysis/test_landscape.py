import math

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from analysis.hyperparameters import surrogate
from analysis.hyperparameters.landscape import landscape
from analysis.hyperparameters.ranges import positions
from tests.analysis.surfaces import RANGES, random_rows, row, study

LR, DROPOUT = (0.45, 0.75), (0.2, 0.7)  # positions of the plateau; temperature does nothing


def plateau(p):
    """0.9 on the plateau, falling by half a point for each hundredth of a range outside of it."""
    return 0.9 - 0.5 * sum(
        max(0.0, low - x, x - high) for x, (low, high) in zip(p, (LR, DROPOUT), strict=False)
    )


def region(searched_study, method="response"):
    result = landscape(searched_study, method)
    assert result.region is not None, result.reason
    return result.region


@pytest.mark.parametrize("seed", range(4))
def test_the_robust_setting_lies_on_the_true_plateau_and_the_region_around_its_middle(seed):
    flat_region = region(study(random_rows(plateau, noise_sd=0.003, seed=seed)))
    robust = positions(RANGES, flat_region.robust)
    assert plateau(robust) == pytest.approx(0.9)
    spans = {span.parameter: span for span in flat_region.spans}
    assert list(spans) == list(RANGES)
    for name, (low, high) in (("lr", LR), ("dropout", DROPOUT)):
        span, distribution = spans[name], {name: RANGES[name]}
        ends = [positions(distribution, {name: end})[0] for end in (span.low, span.high)]
        assert low - 0.08 < ends[0] < ends[1] < high + 0.08  # nothing that is worse by 4 points
    lr = [
        positions({"lr": RANGES["lr"]}, {"lr": x})[0] for x in (spans["lr"].low, spans["lr"].high)
    ]
    assert lr[0] < 0.6 < lr[1]
    assert lr[1] - lr[0] > 0.1
    temperature = [math.log(x) for x in (spans["temperature"].low, spans["temperature"].high)]
    assert temperature[1] - temperature[0] > 0.4 * math.log(20)


def test_what_is_predicted_comes_with_its_error_and_the_region_with_its_tolerance():
    flat_region = region(study(random_rows(plateau, noise_sd=0.003)))
    assert (flat_region.method, flat_region.n) == ("response", 40)
    assert flat_region.tolerance == pytest.approx(max(flat_region.best_sd, 0.005))
    assert flat_region.best >= flat_region.value >= flat_region.best - flat_region.tolerance
    assert flat_region.value == pytest.approx(0.9, abs=0.03)
    assert 0 < flat_region.sd < 0.02
    assert 0.8 < flat_region.explained <= 1


def test_alone_a_parameter_stays_within_the_plateau_and_around_its_robust_value():
    flat_region = region(study(random_rows(plateau, noise_sd=0.003)))
    for span in flat_region.spans:
        assert span.alone_low <= span.robust <= span.alone_high
    lr = next(span for span in flat_region.spans if span.parameter == "lr")
    robust = positions(RANGES, flat_region.robust)
    for end in (lr.alone_low, lr.alone_high):
        place = positions({"lr": RANGES["lr"]}, {"lr": end})[0]
        assert plateau([place, *robust[1:]]) > 0.9 - 0.04


def test_the_study_s_margin_is_the_least_tolerance():
    wide = region(study(random_rows(plateau, noise_sd=0.003), margin=0.03))
    assert wide.tolerance == pytest.approx(0.03)
    narrow = region(study(random_rows(plateau, noise_sd=0.003), margin=0.005))
    for one, other in zip(wide.spans[:2], narrow.spans[:2], strict=True):
        assert one.high - one.low > other.high - other.low


def test_a_region_that_is_a_tiny_share_of_seven_ranges_is_found():
    ranges = {f"p{i}": FloatDistribution(0.0, 1.0) for i in range(7)}
    rows = random_rows(lambda p: 0.9 - sum((x - 0.4) ** 2 for x in p[:4]), repeats=8, ranges=ranges)
    flat_region = region(study(rows, ranges=ranges))
    assert [flat_region.robust[f"p{i}"] for i in range(4)] == pytest.approx([0.4] * 4, abs=0.1)
    assert all(0.15 < span.low < 0.4 < span.high < 0.65 for span in flat_region.spans[:4])


def test_the_same_study_has_the_same_region():
    rows = random_rows(plateau, noise_sd=0.01)
    assert landscape(study(rows), "response") == landscape(study(rows), "response")


def test_one_trial_that_came_to_nothing_does_not_set_the_scale():
    rows = random_rows(plateau, noise_sd=0.003)
    rows[7] |= {"val_accuracy": 0.1}
    assert plateau(positions(RANGES, region(study(rows)).robust)) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("searched_study", "reason"),
    [
        (study([]), "0 trials have finished; a flat region needs at least 15"),
        (
            study(random_rows(plateau, repeats=2, trials=7)),
            "14 trials have finished; a flat region needs at least 15",
        ),
        (study(random_rows(plateau), ranges={}), "no parameter was searched"),
    ],
)
def test_where_there_is_no_region_there_is_a_reason(searched_study, reason):
    result = landscape(searched_study, "response")
    assert (result.region, result.reason) == (None, reason)


def test_stopped_trials_are_no_points_of_the_surface():
    rows = random_rows(plateau)
    for one in rows[14:]:
        one["status"] = "stopped"
    assert landscape(study(rows), "response").reason.startswith("14 trials have finished")


@pytest.mark.parametrize("noise_sd", [0.0, 0.02])
def test_values_that_no_parameter_explains_have_no_region(noise_sd):
    result = landscape(study(random_rows(lambda p: 0.9, noise_sd=noise_sd)), "response")
    assert result.region is None
    assert result.reason == (
        "40 trials have finished, from which their parameters' effect on validation cannot be predicted"
    )


def test_a_setting_that_is_tried_again_does_not_explain_itself():
    """Five trials with the same default settings predict each other; that says nothing of other settings."""
    random = np.random.default_rng(3)
    rows = random_rows(lambda p: 0.5, noise_sd=0.05, trials=4, seed=3)
    rows += [
        row(
            "response",
            repeat,
            9,
            0.9 + 0.001 * random.random(),
            lr=0.1,
            dropout=0.1,
            temperature=4.0,
        )
        for repeat in range(10)
    ]
    features = np.array([positions(RANGES, {n: r[f"config.{n}"] for n in RANGES}) for r in rows])
    fitted = surrogate.fit(features, np.array([r["val_accuracy"] for r in rows]))
    assert fitted is not None
    assert fitted.explained < 0.1


def test_choices_and_whole_numbers_are_values_that_exist():
    ranges = {
        "pool": CategoricalDistribution(["mean", "max", "none"]),
        "steps": IntDistribution(1, 9),
        "lr": FloatDistribution(0.01, 1.0, log=True),
    }
    rows = random_rows(
        lambda p: 0.9 - 0.2 * (p[0] > 2 / 3) - 0.3 * abs(p[1] - 0.5) - 0.2 * abs(p[2] - 0.5),
        noise_sd=0.003,
        ranges=ranges,
    )
    flat_region = region(study(rows, ranges=ranges))
    pool, steps, lr = flat_region.spans
    assert "none" not in pool.choices
    assert flat_region.robust["pool"] in pool.choices
    assert (pool.low, pool.high) == (None, None)
    assert flat_region.robust["steps"] in (4, 5, 6)
    assert isinstance(flat_region.robust["steps"], int)
    assert isinstance(steps.low, int)
    assert 0.03 < lr.robust < 0.3


def test_standard_errors_are_of_the_surface_and_not_of_another_training():
    """Many trials: the surface is known well, though each training varies by 0.02."""
    random = np.random.default_rng(0)
    places = random.random((150, 1))
    fitted = surrogate.fit(places, 0.8 + 0.1 * places[:, 0] + 0.02 * random.standard_normal(150))
    assert fitted is not None
    means, errors = fitted.predict(np.array([[0.5]]))
    assert means[0] == pytest.approx(0.85, abs=3 * errors[0])
    assert errors[0] < 0.01
