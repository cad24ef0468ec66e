"""What the teacher cost, and from how many students on it pays."""

import math
from dataclasses import dataclass

from analysis import selection
from analysis.comparison import stats
from analysis.selection import BASELINE
from analysis.study import Study
from analysis.summary import distils, is_compressed
from tune_kd.metrics import number
from tune_kd.study.results import Row


@dataclass(frozen=True, kw_only=True)
class TeacherCost:
    """Seconds of training as the rows recorded them; None where there are no data for one.

    `pays_from`: as many students as make this hold: the teacher once, and each student trained once
    with the default settings and the teacher, take less time than one whole search of the baseline
    for each student. None where one such training takes as long as one such search. It says nothing
    of accuracy.
    """

    teacher_s: float
    student_s: float | None  # mean of the finished trials of the baseline
    search_s: float | None  # mean of the whole searches (repeats) of the baseline
    default_s: float | None  # mean of finished trials with default settings, of methods that distil

    @property
    def students(self) -> float | None:
        """As how many trainings of the plain student the teacher's took."""
        return self.teacher_s / self.student_s if self.student_s else None

    @property
    def pays_from(self) -> int | None:
        """From how many students on the teacher pays.

        >>> TeacherCost(teacher_s=900, student_s=100, search_s=500, default_s=200).pays_from
        3
        """
        if self.search_s is None or self.default_s is None or self.search_s <= self.default_s:
            return None
        return max(1, math.ceil(self.teacher_s / (self.search_s - self.default_s)))


def teacher_cost(study: Study) -> TeacherCost | None:
    """Return the cost of a study's teacher; None for one that came as a file, or whose time is not known."""
    row = selection.teacher(study.rows, "teacher")
    seconds = number(row, "seconds")
    if row is None or not seconds or not row.get("epochs") or row.get("origin") == "file":
        return None
    return TeacherCost(
        teacher_s=seconds,
        student_s=_mean(
            [row for row in _search_rows(study, BASELINE) if row["status"] == "finished"]
        ),
        search_s=_mean_search(study),
        default_s=_mean(
            [
                row
                for method in study.kd_methods
                if distils(study, method) and not is_compressed(study, method)
                for row in selection.default_trials(study.rows, method).values()
            ]
        ),
    )


def _search_rows(study: Study, method: str) -> list[Row]:
    return selection.trials(study.rows, "search", method)


def _mean_search(study: Study) -> float | None:
    """Mean seconds of the baseline's searches whose trials have all ended."""
    trial_count = study.trials_per_repeat
    seconds: dict[int, list[float]] = {}
    for row in _search_rows(study, BASELINE):
        seconds.setdefault(row["repeat"], []).append(number(row, "seconds") or 0.0)
    totals = [sum(values) for values in seconds.values() if len(values) >= trial_count]
    summary = stats.summarise(totals)
    return summary.mean if summary and summary.mean else None


def _mean(rows: list[Row]) -> float | None:
    summary = stats.summarise(v for row in rows if (v := number(row, "seconds")) is not None)
    return summary.mean if summary and summary.mean else None
