"""The simulation of whole studies: its noise is what was recorded, and its bounds can be broken."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal, norm

from analysis.comparison import stats
from benchmarks.search import curves
from benchmarks.search.policies import STOPPING
from benchmarks.verdict import __main__ as verdict
from benchmarks.verdict import noise, tally, world
from benchmarks.verdict.studies import METHODS, Simulation, StudyOptions
from tune_kd.errors import UsageError
from tune_kd.tuning import asha

IMAGES = {"validation": 200, "test": 301}


@pytest.fixture(scope="module")
def digits_world():
    """The world of the recorded digits."""
    rows, about = curves.read(curves.RECORDINGS["digits"])
    return world.build(rows, about, stopping="none")


def recording(random, *, run: float, taste: float) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of two methods, 40 configurations of each, three seeds, and the chances [2, images].

    Chances are those of a training without luck; `run` is the sd of its luck, in units of the
    normal sum.
    """
    ease = norm.ppf(0.95) + random.standard_normal(sum(IMAGES.values()))
    eases = ease + taste * random.standard_normal((2, len(ease)))
    rows = []
    for method, number, seed in itertools.product(range(2), range(40), range(3)):
        chances = norm.cdf(eases[method] + run * random.standard_normal())
        val, test = np.split(random.random(len(ease)) < chances, [IMAGES["validation"]])
        packed = {
            "val_correct": np.packbits(val).tobytes(),
            "test_correct": np.packbits(test).tobytes(),
        }
        rows.append({"method": "ab"[method], "number": number, "seed": seed, "epoch": 5, **packed})
    return pd.DataFrame(rows), norm.cdf(eases)


def test_noise_that_was_put_in_is_measured():
    rows, chances = recording(np.random.default_rng(0), run=0.15, taste=0.3)
    result = noise.measure(rows, IMAGES)
    slope = norm.pdf(norm.ppf(chances)).mean()  # of accuracy by luck
    assert result.run == pytest.approx(0.15 * slope, rel=0.2)
    assert result.images == pytest.approx((chances[0] - chances[1]).std(), rel=0.2)
    assert result.flips == pytest.approx((chances * (1 - chances)).mean(), rel=0.1)
    assert result.n in (40, 41)  # the better half, and ties
    still = noise.measure(recording(np.random.default_rng(0), run=0.0, taste=0.0)[0], IMAGES)
    assert still.run < result.run / 4
    assert still.images < result.images / 4


def test_the_latent_images_flip_and_differ_as_measured():
    measured = noise.Noise(seed=0.0, run=0.0, flips=0.05, images=0.04, level=0.92, n=10)
    latent = noise.latent_model(measured)
    random = np.random.default_rng(0)
    ease = latent.ease * random.standard_normal(400_000)
    first, second = latent.taste * random.standard_normal((2, 400_000))
    bar = latent.total * norm.ppf(0.92)
    chances = [norm.cdf(bar + ease + taste) for taste in (first, second)]
    assert chances[0].mean() == pytest.approx(0.92, abs=0.001)
    assert (chances[0] * (1 - chances[0])).mean() == pytest.approx(0.05, rel=0.02)
    assert np.square(chances[0] - chances[1]).mean() ** 0.5 == pytest.approx(0.04, rel=0.02)


def test_noise_without_a_difference_of_methods_has_none():
    latent = noise.latent_model(noise.Noise(seed=0, run=0, flips=0.05, images=0.0, level=0.9, n=9))
    assert latent.taste == pytest.approx(0.0, abs=1e-3)
    same = multivariate_normal.cdf([norm.ppf(0.9)] * 2, cov=[[1, 0], [0, 1]])
    loose = noise.latent_model(
        noise.Noise(seed=0, run=0, flips=0.9 - same, images=0.0, level=0.9, n=9)
    )
    assert loose.ease == pytest.approx(0.0, abs=1e-3)  # all images are alike


def test_trainings_are_as_accurate_as_they_should_be(digits_world):
    split = world.Split(digits_world, 20_000, METHODS, seed=1)
    points = np.random.default_rng(0).random((50, len(digits_world.surface.cube)))
    right = split.correct(
        split.margins(METHODS[1], digits_world.features(points)), np.linspace(0.7, 0.99, 50)
    )
    assert right.mean(1) == pytest.approx(np.linspace(0.7, 0.99, 50), abs=0.012)


def test_a_split_favours_like_configurations_alike(digits_world):
    """Trainings of one configuration share what images make of it; those of distant ones less so."""
    means = []
    for seed in range(300):
        split = world.Split(digits_world, 100, METHODS, seed=seed)
        points = np.repeat([[0.2] * 3, [0.21] * 3, [0.9] * 3], 60, axis=0)
        right = split.correct(
            split.margins(METHODS[1], digits_world.features(points)), np.full(180, 0.9)
        )
        means.append(right.reshape(3, 60, 100).mean((1, 2)))
    reference, near, far = np.array(means).T
    assert np.var(reference - near) < np.var(reference - far) / 1.5


def test_a_study_is_what_the_product_would_have_written(digits_world):
    policy = {"sampler": "random", "stopping": "none"}
    options = StudyOptions(repeats=3, trials=5, seeds=2, val_images=100, test_images=101, **policy)
    first, again = (Simulation(digits_world, options, number=0).run() for _ in range(2))
    assert first.rows == again.rows
    assert {r["phase"] for r in first.rows} == {"search", "reevaluate"}
    search = [row for row in first.rows if row["phase"] == "search"]
    assert len(search) == 4 * 3 * 5
    one, other = ([r["config.lr"] for r in search if r["method"] == m] for m in METHODS[:2])
    assert one[:2] == other[:2]  # the random start has the same quantiles
    confirmed = first.confirm({})
    seeds = {r["seed"] for r in confirmed if "best" in r["origin"]}
    assert seeds == {1000, 1001, 2000, 2001, 3000, 3001}
    assert {len(r["test_correct"]) for r in confirmed} == {13}
    helped = first.confirm({"response": 0.02})
    gains = [
        b["test_accuracy"] - a["test_accuracy"] for a, b in zip(confirmed, helped, strict=True)
    ]
    response_gains = [
        gain for gain, row in zip(gains, confirmed, strict=True) if row["method"] == "response"
    ]
    assert np.mean(response_gains) == pytest.approx(0.02, abs=0.006)
    assert sum(gains) == pytest.approx(sum(response_gains))  # the others are as they were


@pytest.mark.parametrize("epochs", [1, 12, 15, 30])
def test_trials_are_stopped_as_the_product_stops_them(epochs):
    policy = STOPPING[verdict.STOPPED]
    assert policy.rungs(epochs) == asha.rungs(epochs)
    assert policy.reduction == asha.REDUCTION
    assert not policy.together


def outcome(study: int, label: str, truth: float = 0.0, **values: object) -> dict[str, object]:
    usual = {
        "scenario": "s", "margin": 0.005, "method": "a", "covered": True, "half_width": 0.01, "old": 0,
        "old_half_width": 0.01, "default_covered": True, "student_covered": True, "curse": 0.01,
        "old_curse": 0.02, "image_se": 0.001,
    }  # fmt: skip
    return {**usual, "study": study, "label": label, "truth": truth, **values}


@pytest.mark.parametrize(
    ("label", "truth", "wrong", "small", "detects"),
    [
        (stats.HELPS, 0.0, True, False, False),
        (stats.HELPS, 0.01, False, False, True),
        (stats.HURTS, 0.01, True, False, False),
        (stats.SMALL_HURT, -0.005, False, True, True),
        (stats.SMALL_HELP, 0.004, False, False, True),
        (stats.NO_DIFFERENCE, 0.005, False, True, False),
        (stats.NO_DIFFERENCE, 0.0, False, False, False),
        (stats.NOT_SETTLED, 0.02, False, False, False),
    ],
)
def test_what_is_wrong_of_what_is_said(label, truth, wrong, small, detects):
    row = tally.score(pd.DataFrame([outcome(0, label, truth)])).iloc[0]
    assert (row["wrong"], row["wrongly_small"], row["seen"]) == (wrong, small, detects)


@pytest.mark.parametrize(
    ("label", "truth", "covered", "expected"),
    [
        (stats.HELPS, 0.0, 95, "a wrong direction of any method in 10.0"),
        (stats.NO_DIFFERENCE, 0.005, 95, "a wrong 'less than m' of any method in 10.0"),
        (stats.NOT_SETTLED, 0.0, 90, "90.0 [87.1, 92.3] % of intervals hold the truth"),
        (stats.NOT_SETTLED, 0.0, 100, "100.0 [99.2, 100.0] % of intervals hold the truth"),
    ],
)
def test_bounds_are_broken_by_what_is_too_much(label, truth, covered, expected):
    rows = [
        outcome(n, label if n < 50 else stats.NOT_SETTLED, truth, covered=n < 5 * covered)
        for n in range(500)
    ]
    (text,) = tally.broken_bounds(tally.score(pd.DataFrame(rows)))
    assert expected in text
    labels = [label] * 20 + [stats.NOT_SETTLED] * 480
    fine = [outcome(n, text, truth, covered=n < 475) for n, text in enumerate(labels)]
    assert not list(tally.broken_bounds(tally.score(pd.DataFrame(fine))))


def test_any_method_counts_once_a_study():
    rows = [outcome(study, stats.HELPS, method=m) for study in (0, 1) for m in "abc"]
    rows += [outcome(2, stats.NOT_SETTLED, method=m) for m in "abc"]
    scores = tally.score(pd.DataFrame(rows))
    assert tally.any_of(scores, "wrong") == tally.Share(k=2, n=3)
    assert tally.share_of(scores["wrong"]) == tally.Share(k=6, n=9)


def test_too_few_repeats_are_one_line():
    with pytest.raises(UsageError, match="--repeats 2: a verdict needs at least 3"):
        verdict.main(["--repeats", "2"])


SHORT = ["--studies", "100", "--sampler", "random"]


@pytest.mark.slow
def test_the_verdict_keeps_its_bounds(capsys):
    assert verdict.main(SHORT) == 0
    printed = capsys.readouterr().out
    assert "no bound is broken" in printed
    nothing = next(line for line in printed.splitlines() if line.startswith("| nothing to find"))
    assert float(re.findall(r"([\d.]+) \[", nothing)[0]) < 9.4
    old = [line for line in printed.splitlines() if line.startswith("| nothing to find")][1]
    assert float(re.findall(r"([\d.]+) \[", old)[1]) > 30  # of any method: one search, many seeds


@pytest.mark.slow
def test_a_verdict_that_is_too_bold_breaks_them(capsys, monkeypatch):
    monkeypatch.setattr(stats, "look_level", lambda look: 0.5)
    assert verdict.main([*SHORT[:1], "40", *SHORT[2:]]) == 1
    assert "BROKEN: nothing to find: a wrong direction of any method" in capsys.readouterr().out
