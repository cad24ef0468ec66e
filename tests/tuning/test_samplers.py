"""What samplers propose, and where each proposal is from."""

import math
from collections import Counter

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy import stats

from tests.helpers import made_study
from tests.helpers.made_study import begin, play, reopen, uneven_score
from tune_kd.space import Method, distributions, loader, methods
from tune_kd.space.method import TRAINING
from tune_kd.tuning.samplers import at_quantile, origin, random_config, random_start
from tune_kd.workflows.options import SAMPLERS

# Origins


@pytest.mark.parametrize("settings", [1, 2, 4, 30])
def test_at_most_a_quarter_has_published_settings_and_the_first_the_default_ones(settings):
    for each in range(1, 61):
        origins = [origin(n, settings=settings, start=random_start(each)) for n in range(each)]
        assert origins[0] == "default"
        assert origins.count("default") == 1
        count = origins.count("default") + origins.count("published")
        assert count <= max(1, each / 4)
        assert count == min(settings, max(1, each // 4))
        assert origins.count("random") + count >= random_start(each)


@pytest.mark.parametrize(("each", "start"), [(1, 1), (3, 1), (4, 2), (8, 3), (27, 9), (60, 10)])
def test_a_third_at_most_ten_starts_at_random(each, start):
    assert random_start(each) == start
    origins = [origin(n, settings=1, start=start) for n in range(each)]
    assert origins[1:start] == ["random"] * (start - 1)
    assert "random" not in origins[start:]


def test_published_settings_come_in_their_order(tmp_path):
    request = made_study.request(tmp_path / "s", trials=64, epochs=1, repeats=1)
    study = begin(request)
    play(study, request, uneven_score)
    settings = request.space.methods["response"].settings()
    proposals = study.of("search", "response")
    assert [dict(p.config) for p in proposals if p.origin in ("default", "published")] == settings
    assert [p.number for p in proposals if p.origin in ("default", "published")] == [0, 7, 11, 15]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_samplers_stay_inside_the_ranges_and_repeat_nothing(tmp_path, kind):
    request = made_study.request(tmp_path / "s", trials=32, sampler=kind, epochs=2, repeats=1)
    study = begin(request)
    play(study, request, uneven_score)
    for name, method in request.space.methods.items():
        configs = [p.config for p in study.of("search", name)]
        assert len(configs) == 8
        assert len({tuple(sorted(config.items())) for config in configs}) == 8
        for config in configs:
            assert config.keys() == method.ranges.keys()
            for key, (low, high, _) in distributions.bounds(method.ranges).items():
                assert low <= config[key] <= high
    assert any(p.origin == "sampled" for p in study.of("search"))


@pytest.mark.parametrize("kind", SAMPLERS)
def test_choices_and_whole_numbers_are_sampled_as_what_they_are(tmp_path, kind):
    ranges = {
        "kind": distributions.choice("a", "b"),
        "depth": distributions.integer(1, 3),
        "on": distributions.choice(True, False),
    }

    def stages(space, *, kind, depth, on, **training):
        return methods.no_kd(space, **training)

    base = loader.load("digits_kd")[0].methods["no_kd"]
    method = Method(
        stages=stages,
        ranges={**base.ranges, **ranges},
        defaults={**base.defaults, "kind": "a", "depth": 2, "on": True},
    )
    request = made_study.request(
        tmp_path / "s", methods={"m": method}, trials=7, epochs=1, sampler=kind
    )
    study = begin(request)
    play(study, request, lambda p, step: 0.1 * p.config["depth"] + 0.5 * (p.config["kind"] == "b"))
    for proposal in reopen(study).of("search"):
        assert proposal.config["kind"] in ("a", "b")
        assert proposal.config["depth"] in (1, 2, 3)
        assert type(proposal.config["depth"]) is int
        assert type(proposal.config["on"]) is bool
    rows = study.ranking("m")
    assert {type(r["config.depth"]) for r in rows} == {int}
    assert {type(r["config.on"]) for r in rows} == {bool}


def test_the_sampler_hears_how_the_others_ended(tmp_path):
    study_of = {}
    for name, worse in (("up", 1), ("down", -1)):
        request = made_study.request(
            tmp_path / name, trials=40, epochs=1, scheduler="none", repeats=1
        )
        study_of[name] = begin(request)
        play(
            study_of[name], request, lambda p, s, sign=worse: 0.5 + sign * 0.1 * p.config["dropout"]
        )

    def mean(name):
        values = [p.config["dropout"] for p in study_of[name].of("search") if p.origin == "sampled"]
        return sum(values) / len(values)

    assert mean("up") > 0.15 > mean("down")


# Random values: quantiles of their ranges

SHARES = [1e-9, 0.01, 0.13, 0.3, 0.499, 0.51, 0.77, 0.9999]


@pytest.mark.parametrize("share", SHARES)
def test_quantiles_are_scipys(share):
    floats, logs = FloatDistribution(-2.0, 3.0), FloatDistribution(1e-4, 2.0, log=True)
    integers = IntDistribution(-1, 7)
    assert at_quantile(floats, share) == pytest.approx(stats.uniform(-2, 5).ppf(share))
    assert at_quantile(logs, share) == pytest.approx(stats.loguniform(1e-4, 2.0).ppf(share))
    value = at_quantile(integers, share)
    assert (value, type(value)) == (stats.randint(-1, 8).ppf(share), int)


@pytest.mark.parametrize(
    ("range_", "share", "expected"),
    [
        (IntDistribution(2, 10, step=4), 0.33, 2),  # 2, 6 and 10 have a third each
        (IntDistribution(2, 10, step=4), 0.34, 6),
        (IntDistribution(2, 10, step=4), 0.67, 10),
        (FloatDistribution(0.0, 1.0, step=0.25), 0.19, 0.0),  # five values, a fifth each
        (FloatDistribution(0.0, 1.0, step=0.25), 0.21, 0.25),
        (FloatDistribution(0.0, 1.0, step=0.25), 0.79, 0.75),
        (FloatDistribution(0.0, 1.0, step=0.25), 0.81, 1.0),
        (IntDistribution(1, 100, log=True), 0.5, 7),  # sqrt(0.5 * 100.5) = 7.09
        (IntDistribution(1, 100, log=True), 0.2, 1),  # 0.5 * 201^0.2 = 1.44
        (IntDistribution(1, 100, log=True), 0.999999, 100),
        (CategoricalDistribution(["x", 2, True, None]), 0.24, "x"),
        (CategoricalDistribution(["x", 2, True, None]), 0.26, 2),
        (CategoricalDistribution(["x", 2, True, None]), 0.74, True),
        (CategoricalDistribution(["x", 2, True, None]), 1.0, None),
        (FloatDistribution(0.1, 0.1), 0.7, 0.1),
        (IntDistribution(3, 3), 0.7, 3),
    ],
)
def test_quantiles_by_hand(range_, share, expected):
    value = at_quantile(range_, share)
    assert value == pytest.approx(expected) if isinstance(expected, float) else value is expected
    assert range_._contains(range_.to_internal_repr(value))


def test_no_rounding_leaves_a_range():
    awkward = FloatDistribution(1 / 3, 2 / 3)
    assert [at_quantile(awkward, share) for share in (0.0, 1.0)] == [1 / 3, 2 / 3]


def test_random_values_are_spread_evenly():
    ranges = {
        "lr": FloatDistribution(0.01, 1.0, log=True),
        "depth": IntDistribution(1, 4),
        "kind": CategoricalDistribution(["a", "b"]),
        "drop": FloatDistribution(0.0, 0.4, step=0.2),
    }
    configs = [random_config(ranges, seed=seed) for seed in range(2000)]
    lr = [config["lr"] for config in configs]
    assert stats.kstest(lr, stats.loguniform(0.01, 1.0).cdf).pvalue > 0.01
    for name, values in {
        "depth": (1, 2, 3, 4),
        "kind": ("a", "b"),
        "drop": (0.0, 0.2, 0.4),
    }.items():
        counts = Counter(config[name] for config in configs)
        assert counts.keys() == set(values)
        assert stats.chisquare([counts[value] for value in values]).pvalue > 0.01
    # each parameter has a stream of its own
    depth = [config["depth"] for config in configs]
    assert stats.spearmanr(lr, depth).pvalue > 0.01


def test_a_random_value_depends_on_the_seed_and_on_its_own_name_alone():
    lr = FloatDistribution(0.01, 1.0, log=True)
    single, several = {"lr": lr}, {"beta": FloatDistribution(0.0, 1.0), "lr": lr}
    assert random_config(several, seed=5)["lr"] == random_config(single, seed=5)["lr"]
    assert random_config(single, seed=5) != random_config(single, seed=6)


def quantile(range_, value):
    """The share of a range that lies below a value."""
    low, high = range_.low, range_.high
    if range_.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def test_methods_share_the_quantiles_of_what_they_have_in_common(tmp_path):
    space = loader.load("digits_kd")[0]
    method = space.methods["no_kd"]
    method = Method(
        stages=method.stages,
        ranges={**method.ranges, "lr": distributions.log_uniform(0.001, 2.0)},
        defaults=method.defaults,
    )
    mixed_methods = {**space.methods, "no_kd": method}
    request = made_study.request(
        tmp_path / "s", trials=144, epochs=1, methods=mixed_methods, repeats=3
    )
    study = begin(request)
    play(study, request, lambda proposal, step: 0.5)
    comparisons = 0
    for repeat in range(3):
        for number in range(1, random_start(12)):
            proposals = [p for p in study.of("search", repeat=repeat) if p.number == number]
            proposals = [p for p in proposals if p.origin == "random"]
            for name in TRAINING:
                quantiles = [
                    quantile(request.space.methods[p.method].ranges[name], p.config[name])
                    for p in proposals
                ]
                assert quantiles == pytest.approx([quantiles[0]] * len(quantiles), abs=1e-9)
                comparisons += len(quantiles) > 1
    assert comparisons >= 3 * 2 * 3  # two random numbers at least, three parameters, three repeats
    # what two methods with one range draw is one value
    rates = [
        study.proposals[f"{method}-r1-0001"].config["lr"] for method in ("response", "feature")
    ]
    assert rates[0] == rates[1]
    # after the random start each goes its own way
    rates = [p.config["lr"] for p in study.of("search", repeat=0) if p.origin == "sampled"]
    assert len(set(rates)) == len(rates) > 0


# Each search hears of itself alone


@pytest.mark.parametrize("kind", ["tpe", "gp"])
def test_a_sampler_hears_of_its_own_repeat_only(tmp_path, kind):
    configs = {}
    for name, sign in (("plain", 1), ("turned", -1)):
        few_methods = {"no_kd": loader.load("digits_kd")[0].methods["no_kd"]}
        request = made_study.request(
            tmp_path / name,
            methods=few_methods,
            trials=16,
            epochs=1,
            sampler=kind,
            scheduler="none",
            repeats=2,
        )
        study = begin(request)
        play(
            study,
            request,
            lambda p, step, sign=sign: 0.5 + (sign if p.repeat == 0 else 1) * p.config["dropout"],
        )
        assert {p.origin for p in study.of("search")} == {"default", "random", "sampled"}
        configs[name] = [
            [p.config for p in study.of("search", "no_kd", repeat=repeat)] for repeat in (0, 1)
        ]
        assert [t.params for t in study.optuna_trials("no_kd", repeat=1)] == configs[name][1]
    assert configs["plain"][0] != configs["turned"][0]
    assert configs["plain"][1] == configs["turned"][1]
