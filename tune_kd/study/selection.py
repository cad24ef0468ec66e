"""Which trials stand for a method: pure functions of rows, which no row of the test split decides.

A study searches every method several times over (its repeats). The winner of each repeat is what
that search found; a statement about the method rests on all of them. The recommended trial is what
somebody would use: the best three winners are trained again with fresh seeds and scored on
validation, and the best mean wins, in which the value that chose them is not.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from tune_kd import objectives
from tune_kd.metrics import number
from tune_kd.study.results import Row, rank_trials

CANDIDATES = 3  # winners that are trained again before one of them is recommended


def winners(
    rows: Iterable[Row], method: str, *, metric: str, constraints: Sequence[str] = ()
) -> dict[int, Row]:
    """Return the search trial that each repeat of a method chose: its best finished one on validation.

    Repeats without a finished trial are left out; keys rise.
    """
    by_repeat: dict[int, Row] = {}
    for row in rank_trials(rows, method, metric=metric, constraints=constraints):
        by_repeat.setdefault(row["repeat"], row)
    return dict(sorted(by_repeat.items()))


def candidates(
    rows: Iterable[Row], method: str, *, metric: str, constraints: Sequence[str] = ()
) -> list[Row]:
    """Return the winners that are evaluated again, best on validation first: at most three.

    One winner alone needs no second look: it is recommended as it is.
    """
    rows = list(rows)
    best = winners(rows, method, metric=metric, constraints=constraints)
    names = {row["trial"] for row in best.values()}
    if len(names) < 2:
        return []
    order = rank_trials(rows, method, metric=metric, constraints=constraints)
    limits = [objectives.parse(text) for text in constraints]
    allowed = [row for row in order if not objectives.violations(row, limits)] or order
    return [row for row in allowed if row["trial"] in names][:CANDIDATES]


def reevaluations(rows: Iterable[Row], method: str, *, metric: str) -> dict[str, dict[int, float]]:
    """Return the validation of a method's winners with fresh seeds: by search trial, by seed."""
    scores: dict[str, dict[int, float]] = {}
    for row in rows:
        value = number(row, metric)
        is_finished = row["status"] == "finished" and value is not None
        if row["phase"] == "reevaluate" and row["method"] == method and is_finished:
            assert value is not None
            scores.setdefault(row["source"], {})[row["seed"]] = value
    return scores


def recommend(
    rows: Iterable[Row], method: str, *, metric: str, constraints: Sequence[str] = ()
) -> Row | None:
    """Return the search trial that a method recommends; None where none has finished.

    The candidate with the best mean over its fresh seeds; where none was evaluated again, the
    winner that is best on validation.
    """
    rows = list(rows)
    order = candidates(rows, method, metric=metric, constraints=constraints)
    scores = reevaluations(rows, method, metric=metric)
    finalists = [row for row in order if row["trial"] in scores]
    if finalists:
        # a tie is decided by the order on validation
        return max(finalists, key=lambda row: _mean(scores[row["trial"]]))
    return next(iter(rank_trials(rows, method, metric=metric, constraints=constraints)), None)


def _mean(values: Mapping[int, float]) -> float:
    return statistics.fmean(values.values())
