"""What a study says of its methods: each against the baseline, tuned and with its default settings.

Three comparisons, each with its own claim. The difference of the tuned methods, over repeats of the
search, is about the methods. That of the default settings, over seeds, has no choice in it. That of
the recommended students, over seeds, is about two configurations and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import scipy.stats

from analysis import selection
from analysis.comparison import stats
from analysis.comparison.images import Runs, image_error
from analysis.comparison.stats import Estimate, Summary, Verdict
from analysis.selection import BASELINE
from analysis.study import Study
from tune_kd.metrics import number
from tune_kd.study.results import Row

FEWEST = 3  # trials for a rank correlation


@dataclass(frozen=True, kw_only=True)
class Curse:
    """Winners on the validation that chose them, and trained again with fresh seeds (fractions).

    What the first is higher is the winner's curse: a maximum over trials is too good.
    """

    chosen: Summary
    fresh: Summary
    difference: Estimate


@dataclass(frozen=True, kw_only=True)
class RungCorrelation:
    """Spearman's correlation of validation at the first rung with that at the end, in [-1, 1].

    Over the n trials of a method that ended, all repeats together; stopped ones have no end.
    """

    epoch: int
    value: float
    n: int


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """One method's numbers on the test split, as fractions; None where there are no data for one.

    Differences are to the baseline and None for the baseline itself; `bought` and `curse` are not.
    """

    method: str
    tuned: Mapping[int, float]  # by repeat: what its search chose, mean over the repeat's seeds
    default: Mapping[int, float]  # with the default settings, by seed
    recommended: Mapping[int, float]  # by seed
    by_repeat: Mapping[int, float]  # tuned, minus the tuned baseline
    difference: Estimate | None  # of by_repeat: about the method
    verdict: Verdict | None  # on it, all methods together
    default_difference: Estimate | None  # over seeds: without any choice
    bought: Estimate | None  # tuned minus default, over repeats: what tuning bought this method
    student: Estimate | None  # recommended, minus the recommended baseline, over seeds
    student_verdict: Verdict | None  # on these two configurations, all students together
    curse: Curse | None


def results(study: Study) -> dict[str, MethodResult]:
    """Return the numbers of every method, the baseline first."""
    return dict(_results(study))


@lru_cache(maxsize=8)
def _results(study: Study) -> Mapping[str, MethodResult]:
    differences = {method: _tuned(study, method) for method in study.kd_methods}
    students = {method: _student(study, method) for method in study.kd_methods}
    verdicts, on_students = _verdicts(study, differences), _verdicts(study, students)
    return {
        method: MethodResult(
            method=method,
            tuned=study.tuned_values(method),
            default=study.default(method),
            recommended=study.confirmed_values(study.recommended_trial(method)),
            by_repeat=_by_repeat(study, method),
            difference=differences.get(method),
            verdict=verdicts.get(method),
            default_difference=_default_difference(study, method),
            bought=_gain(study, method),
            student=students.get(method),
            student_verdict=on_students.get(method),
            curse=curse(study, method),
        )
        for method in study.methods
    }


def level(study: Study) -> float:
    """Return the error that this look at the test split may spend on all methods together."""
    return stats.look_level(max(1, study.looks))


def _verdicts(study: Study, estimates: Mapping[str, Estimate | None]) -> dict[str, Verdict]:
    valid_estimates = {
        method: estimate for method, estimate in estimates.items() if estimate is not None
    }
    return stats.rule(valid_estimates, margin=study.margin, level=level(study))


def _by_repeat(study: Study, method: str) -> dict[int, float]:
    if method == BASELINE:
        return {}
    return stats.differences(study.tuned_values(method), study.tuned_values(BASELINE))


def _tuned(study: Study, method: str) -> Estimate | None:
    """Return what the searches of a method led to against those of the baseline, repeat by repeat."""
    error = image_error(study, *(_rows(study, m, "best") for m in (method, BASELINE)))
    return stats.paired(
        study.tuned_values(method), study.tuned_values(BASELINE), image_se=error or 0.0
    )


def _default_difference(study: Study, method: str) -> Estimate | None:
    """Return the default settings against the baseline's, paired by seed."""
    if method == BASELINE:
        return None
    runs = [_by_seed(study.runs_by_repeat(m, "default")) for m in (method, BASELINE)]
    error = image_error(study, *runs)
    return stats.paired(study.default(method), study.default(BASELINE), image_se=error or 0.0)


def _gain(study: Study, method: str) -> Estimate | None:
    """Return tuned minus default of one method, over repeats; 0 where a search found nothing better."""
    runs = [_rows(study, method, role) for role in ("best", "default")]
    error = image_error(study, *runs)
    default = study.default_by_repeat(method)
    return stats.paired(study.tuned_values(method), default, image_se=error or 0.0)


def _student(study: Study, method: str) -> Estimate | None:
    """Return the recommended trial against the recommended baseline, over the seeds in common."""
    trials = [study.recommended_trial(m) for m in (method, BASELINE)]
    runs = [
        {seed: [stages[-1]] for seed, stages in study.runs(trial, "recommended").items()}
        for trial in trials
    ]
    error = image_error(study, *runs)
    return stats.paired(*map(study.confirmed_values, trials), image_se=error or 0.0)


def _rows(study: Study, method: str, role: str) -> Runs:
    return {r: list(runs.values()) for r, runs in study.runs_by_repeat(method, role).items()}


def _by_seed(runs: Mapping[int, Mapping[int, Row]]) -> Runs:
    return {seed: [row] for seeds in runs.values() for seed, row in seeds.items()}


def curse(study: Study, method: str) -> Curse | None:
    """How much too good validation was of the winners that were trained again."""
    fresh = study.fresh_means(method)
    values = {row["trial"]: number(row, study.metric) for row in study.winners(method).values()}
    winner_values = {
        trial: value for trial, value in values.items() if value is not None and trial in fresh
    }
    difference = stats.paired(winner_values, fresh)
    before = stats.summarise(winner_values.values())
    after = stats.summarise(fresh[trial] for trial in winner_values)
    if difference is None or before is None or after is None:
        return None
    return Curse(chosen=before, fresh=after, difference=difference)


def rung_correlation(study: Study, method: str) -> RungCorrelation | None:
    """Whether the first rung knew how trials would end; None for fewer than three, or all alike."""
    rungs = study.manifest.rungs
    trials = [
        r for r in selection.trials(study.rows, "search", method) if r["status"] == "finished"
    ]
    if not rungs:
        return None
    pairs = [
        (early, late)
        for row in trials
        if (late := number(row, study.metric)) is not None
        and (early := _at(study, row, rungs[0])) is not None
    ]
    columns = list(zip(*pairs, strict=True))
    if len(pairs) < FEWEST or any(len(set(column)) == 1 for column in columns):
        return None
    value = float(scipy.stats.spearmanr(*columns).statistic)
    return RungCorrelation(epoch=rungs[0], value=value, n=len(pairs))


def _at(study: Study, trial: Row, epoch: int) -> float | None:
    """Return a trial's validation after an epoch."""
    rows = study.curves.get(trial["trial"], ())
    return next((number(row, study.metric) for row in rows if row["step"] == epoch), None)
