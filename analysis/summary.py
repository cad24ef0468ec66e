"""The numbers of the main table: teacher, baseline and methods, fractions throughout."""

from dataclasses import dataclass

import pandas as pd

from analysis import selection
from analysis.comparison import stats
from analysis.comparison.methods import MethodResult, results
from analysis.compression import stages_of
from analysis.study import Study
from tune_kd.metrics import number
from tune_kd.study.results import Row

_FOOTPRINT = ("size_mb", "flops", "latency_ms", "latency_ms_sd")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of the main table; the study's metric as fractions, `test` None where not confirmed."""

    method: str  # "teacher" for the teacher
    trial: str  # the recommended one
    validation: stats.Summary | None  # of the winners, each on the split that chose it; n = repeats
    test: stats.Summary | None  # of the tuned method; n = repeats, 1 for the teacher
    result: MethodResult | None  # None for the teacher
    footprint: Row | None

    @property
    def difference(self) -> stats.Estimate | None:
        """To the tuned baseline, over repeats."""
        return self.result.difference if self.result else None


def lines(study: Study) -> list[Line]:
    """Return the main table's numbers: teacher, baseline, then the methods in their order."""
    rows = study.rows
    test_value = number(selection.teacher(rows, "confirm"), study.test_metric)
    val_value = number(selection.teacher(rows, "teacher"), study.metric)
    teacher = Line(
        method="teacher",
        trial="",
        validation=stats.summarise([] if val_value is None else [val_value]),
        test=stats.summarise([] if test_value is None else [test_value]),
        result=None,
        footprint=selection.teacher(rows, "measure"),
    )
    return [teacher, *(_line(study, result) for result in results(study).values())]


def _line(study: Study, result: MethodResult) -> Line:
    trial = study.recommended_trial(result.method)
    return Line(
        method=result.method,
        trial=trial["trial"] if trial else "",
        validation=validation(study, result.method),
        test=stats.summarise(result.tuned.values()),
        result=result,
        footprint=study.footprint(trial),
    )


def validation(study: Study, method: str, metric: str = "") -> stats.Summary | None:
    """Return the validation of a method's winners (of the study's metric, unless another is named), n = repeats."""
    rows = study.winners(method).values()
    name = metric or study.metric
    return stats.summarise(value for row in rows if (value := number(row, name)) is not None)


def kd_winner(study: Study) -> str | None:
    """Return the method with distillation whose winners are best on validation, in the mean over repeats.

    Of those that neither prune nor quantize, where there are such; one whose recommended trial
    breaks a constraint counts only where there is no other. The test split has no part in it.
    """
    kd_methods = [m for m in study.kd_methods if study.recommended_trial(m) and distils(study, m)]
    uncompressed = [m for m in kd_methods if not is_compressed(study, m)] or kd_methods
    candidates = [
        m
        for m in uncompressed
        if (study.recommended_trial(m) or {}).get("trial") not in study.infeasible_trials
    ]

    def rank(method: str) -> tuple[float, float]:
        values, losses = (validation(study, method, name) for name in ("", "val_loss"))
        mean = values.mean if values else float("-inf")
        return mean, -losses.mean if losses else float("-inf")

    return max(candidates or uncompressed, key=rank, default=None)


def distils(study: Study, method: str) -> bool:
    """Whether any stage of the trial that a method recommends listens to a teacher.

    A row without a recipe is taken at its method's word.
    """
    stages = stages_of(study.recommended_trial(method))
    return not stages or any(stage.needs_teacher for stage in stages)


def is_compressed(study: Study, method: str) -> bool:
    """Whether the trial that a method recommends prunes or quantizes."""
    trial = study.recommended_trial(method)
    return trial is not None and selection.compresses(study.stages[trial["trial"]])


def raw(study: Study) -> pd.DataFrame:
    """Return the main table as numbers, fractions throughout: what table.csv holds."""
    return pd.DataFrame([_raw_line(study, line) for line in lines(study)], dtype=object)


def _raw_line(study: Study, line: Line) -> dict[str, object]:
    result = line.result
    verdict = result.verdict if result else None
    params = number(line.footprint, "num_params")
    return {
        "study": study.name,
        "method": line.method,
        "metric": study.test_metric,
        "split": "test",
        **_summary(line.test, ""),
        **_estimate(line.difference, ""),
        "p": verdict.p if verdict else None,
        "p_equivalence": verdict.p_equivalence if verdict else None,
        "margin": study.margin if verdict else None,
        "verdict": verdict.label if verdict else "",
        **_summary(stats.summarise(result.default.values()) if result else None, "default_"),
        **_estimate(result.default_difference if result else None, "default_"),
        **_estimate(result.bought if result else None, "bought_"),
        **_summary(stats.summarise(result.recommended.values()) if result else None, "student_"),
        **_estimate(result.student if result else None, "student_"),
        "trial": line.trial,
        study.metric: line.validation.mean if line.validation else None,
        "num_params": None if params is None else int(params),
        **{name: number(line.footprint, name) for name in _FOOTPRINT},
    }


def _summary(summary: stats.Summary | None, prefix: str) -> dict[str, object]:
    return {
        f"{prefix}mean": summary.mean if summary else None,
        f"{prefix}sd": summary.sd if summary else None,
        f"{prefix}n": summary.n if summary else 0,
    }


def _estimate(estimate: stats.Estimate | None, prefix: str) -> dict[str, object]:
    return {
        f"{prefix}difference": estimate.mean if estimate else None,
        f"{prefix}low": estimate.low if estimate else None,
        f"{prefix}high": estimate.high if estimate else None,
        f"{prefix}image_se": estimate.image_se if estimate else None,
        f"{prefix}pairs": estimate.n if estimate else 0,
    }
