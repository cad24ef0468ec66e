"""The numbers of the main table: teacher, baseline and methods, fractions throughout."""

from dataclasses import dataclass

import pandas as pd

from analysis import select, stats
from analysis.compressing import stages_of
from analysis.load import Study
from analysis.select import BASELINE, number
from tune_kd.results import Row

_FOOTPRINT = ("size_mb", "flops", "latency_ms", "latency_ms_sd")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of the main table; the study's metric as fractions, `test` None where not confirmed."""

    method: str  # "teacher" for the teacher
    trial: str
    validation: float | None
    test: stats.Summary | None
    difference: stats.Estimate | None
    footprint: Row | None


def lines(study: Study) -> list[Line]:
    """The main table's numbers: teacher, baseline, then the methods in their order."""
    rows = study.rows
    known = number(select.teacher(rows, "confirm"), study.test_metric)
    taught = number(select.teacher(rows, "teach"), study.metric)
    found = [
        Line(
            method="teacher",
            trial="",
            validation=taught,
            test=stats.summarise([] if known is None else [known]),
            difference=None,
            footprint=select.teacher(rows, "measure"),
        )
    ]
    for method in study.methods:
        trial = study.chosen(method)
        found.append(
            Line(
                method=method,
                trial=trial["trial"] if trial else "",
                validation=number(trial, study.metric),
                test=stats.summarise(study.confirmed(trial).values()),
                difference=None if method == BASELINE else to_baseline(study, method),
                footprint=study.footprint(trial),
            )
        )
    return found


def to_baseline(study: Study, method: str, metric: str = "") -> stats.Estimate | None:
    """A method minus the baseline on test, paired by seed; None where either is not confirmed.

    Of the study's own metric, unless another test metric is named.
    """
    baseline = study.confirmed(study.chosen(BASELINE), metric)
    return stats.paired(study.confirmed(study.chosen(method), metric), baseline)


def kd_winner(study: Study) -> str | None:
    """The method with distillation that is best on validation; uncompressed ones before others."""
    taught = [m for m in study.kd_methods if distils(study, m)]
    plain = [m for m in taught if not is_compressed(study, m)]
    stand = [row for m in plain or taught if (row := study.chosen(m))]
    best = select.winner(stand, metric=study.metric, barred=study.barred)
    return str(best["method"]) if best else None


def distils(study: Study, method: str) -> bool:
    """Whether any stage of the trial that stands for a method listens to a teacher.

    A row without a recipe is taken at its method's word.
    """
    stages = stages_of(study.chosen(method))
    return not stages or any(stage.listens for stage in stages)


def is_compressed(study: Study, method: str) -> bool:
    """Whether the trial that stands for a method prunes or quantises."""
    trial = study.chosen(method)
    return trial is not None and select.compresses(study.stages[trial["trial"]])


def raw(study: Study) -> pd.DataFrame:
    """The main table as numbers, fractions throughout: what table.csv holds."""
    return pd.DataFrame([_raw_line(study, line) for line in lines(study)], dtype=object)


def _raw_line(study: Study, line: Line) -> dict[str, object]:
    test, change = line.test, line.difference
    params = number(line.footprint, "num_params")
    return {
        "study": study.name,
        "method": line.method,
        "metric": study.test_metric,
        "split": "test",
        "mean": test.mean if test else None,
        "sd": test.sd if test else None,
        "n": test.n if test else 0,
        "difference": change.mean if change else None,
        "low": change.low if change else None,
        "high": change.high if change else None,
        "pairs": change.n if change else 0,
        "verdict": change.verdict if change else "",
        "trial": line.trial,
        study.metric: line.validation,
        "num_params": None if params is None else int(params),
        **{name: number(line.footprint, name) for name in _FOOTPRINT},
    }
