"""What the report would say of a simulated study, beside what is true.

Rows become a study as the report reads it (analysis/study.py), and analysis/comparison/methods.py
judges it. The old way is kept for comparison: of all trials of a method the one that is best on
validation, as many seeds as the repeats have together, an interval over these seeds, and no
correction over methods.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from analysis.comparison import methods, stats
from analysis.selection import BASELINE
from analysis.study import Study
from benchmarks.verdict.studies import METHODS, METRIC, SearchedStudy
from tune_kd.recipe import Compute, Images
from tune_kd.study.manifest import Manifest, SearchedMethod
from tune_kd.study.results import Row, rank_trials
from tune_kd.study.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is true: the effects of methods, and the margin below which a difference is none (fractions)."""

    effects: Mapping[str, float] = field(default_factory=dict)
    margin: float = 0.005


def _every_method(effect: float) -> dict[str, float]:
    return dict.fromkeys(METHODS[1:], effect)


SCENARIOS = {
    "nothing to find": Scenario(),
    "+0.5 points, m 0.5": Scenario(effects=_every_method(0.005)),
    "+1 point": Scenario(effects=_every_method(0.01)),
    "+2 points": Scenario(effects=_every_method(0.02)),
    "one hurts by 1": Scenario(effects={METHODS[1]: -0.01}),
    # so wide a margin that few repeats may say "no difference", at its very end
    "+4 points, m 4": Scenario(effects=_every_method(0.04), margin=0.04),
}

MANIFEST = Manifest(
    study="", space="", family="", task="", teacher="", student="", settings={},
    methods=dict.fromkeys(METHODS, SearchedMethod()), seed=0, limit_train=0, sampler="", scheduler="",
    images=Images(task="", train_hash="", num_classes=2), trials=0, repeats=1, trials_per_repeat=1, epochs=1,
    teacher_epochs=1, num_train=0, num_val=0, compute=Compute(), rungs=(), random_start=0, metric=METRIC,
    objectives=(METRIC,), needs_teacher=True, config_types={}, teacher_model="", marker="",
)  # fmt: skip


def outcomes(
    searched: SearchedStudy, *, number: int, storage: Storage
) -> Iterator[dict[str, object]]:
    """Yield what is said of each method in each scenario: a row of the table that tally.py counts.

    `storage` holds the opening of the test split, which is the first.
    """
    for name, scenario in SCENARIOS.items():
        confirmed = searched.confirm(scenario.effects)
        study = Study(
            address="",
            storage=storage,
            manifest=replace(MANIFEST, study=str(number), margin=scenario.margin),
            rows=[*searched.rows, *(row for row in confirmed if row["origin"] != "single")],
            curves={},
        )
        results = methods.results(study)
        for method in METHODS[1:]:
            truth = scenario.effects.get(method, 0.0)
            one = results[method]
            assert one.difference is not None
            assert one.default_difference is not None
            assert one.student is not None
            assert one.verdict is not None
            yield {
                "scenario": name,
                "margin": scenario.margin,
                "study": number,
                "method": method,
                "truth": truth,
                "label": one.verdict.label,
                "difference": one.difference.mean,
                "half_width": (one.difference.high or 0.0) - one.difference.mean,
                "image_se": one.difference.image_se,
                "covered": _covers(one.difference, truth),
                "default_covered": _covers(one.default_difference, truth),
                "student_covered": _covers(
                    one.student, _true_difference(study, searched, method) + truth
                ),
                "curse": one.curse.difference.mean if one.curse else None,
                **_old_way(searched.rows, confirmed, method, effect=truth),
            }


def _covers(estimate: stats.Estimate, truth: float) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= truth <= estimate.high


def _true_difference(study: Study, searched: SearchedStudy, method: str) -> float:
    """Return how much better the method's recommended configuration is, where the method has no effect."""
    rows = [study.recommended_trial(name) for name in (method, BASELINE)]
    truth, baseline = (searched.truth[row["trial"]] for row in rows if row)
    return truth - baseline


def _old_way(
    searched: Sequence[Row], confirmed: Sequence[Row], method: str, *, effect: float
) -> dict[str, float | int]:
    """Return what was said of a method before searches were repeated."""
    runs = [row for row in confirmed if row["origin"] == "single"]
    single = [
        {row["seed"]: row["test_accuracy"] for row in runs if row["method"] == name}
        for name in (method, BASELINE)
    ]
    difference = stats.paired(*single)
    assert difference
    assert difference.low is not None
    assert difference.high is not None
    best = rank_trials(searched, method, metric=METRIC)[0]
    mean = sum(single[0].values()) / len(single[0])
    return {
        "old": 1 if difference.low > 0 else -1 if difference.high < 0 else 0,
        "old_half_width": difference.high - difference.mean,
        "old_curse": best[METRIC] + effect - mean,
    }
