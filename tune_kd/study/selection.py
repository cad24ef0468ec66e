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
from tune_kd.study.results import Row, ranked

CANDIDATES = 3  # winners that are trained again before one of them is recommended


def winners(
    rows: Iterable[Row], method: str, *, metric: str, constraints: Sequence[str] = ()
) -> dict[int, Row]:
    """Return the search trial that each repeat of a method chose: its best finished one on validation.

    Repeats without a finished trial are left out; keys rise.
    """
    found: dict[int, Row] = {}
    for row in ranked(rows, method, metric=metric, constraints=constraints):
        found.setdefault(row["repeat"], row)
    return dict(sorted(found.items()))


def candidates(
    rows: Iterable[Row], method: str, *, metric: str, constraints: Sequence[str] = ()
) -> list[Row]:
    """Return the winners that are evaluated again, best on validation first: at most three.

    One winner alone needs no second look: it is recommended as it is.
    """
    rows = list(rows)
    chosen = {row["trial"] for row in winners(rows, method, metric=metric, constraints=constraints).values()}  # fmt: skip
    if len(chosen) < 2:
        return []
    order = ranked(rows, method, metric=metric, constraints=constraints)
    barred = [objectives.parse(text) for text in constraints]
    kept = [row for row in order if not objectives.broken(row, barred)] or order
    return [row for row in kept if row["trial"] in chosen][:CANDIDATES]


def reevaluations(rows: Iterable[Row], method: str, *, metric: str) -> dict[str, dict[int, float]]:
    """Return the validation of a method's winners with fresh seeds: by search trial, by seed."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        value = number(row, metric)
        done = row["status"] == "finished" and value is not None
        if row["phase"] == "reevaluate" and row["method"] == method and done:
            assert value is not None
            found.setdefault(row["source"], {})[row["seed"]] = value
    return found


def recommended(
    rows: Iterable[Row], method: str, *, metric: str, constraints: Sequence[str] = ()
) -> Row | None:
    """Return the search trial that a method recommends; None where none has finished.

    The candidate with the best mean over its fresh seeds; where none was evaluated again, the winner
    that is best on validation.
    """
    rows = list(rows)
    order = candidates(rows, method, metric=metric, constraints=constraints)
    again = reevaluations(rows, method, metric=metric)
    scored = [row for row in order if row["trial"] in again]
    if scored:
        return max(scored, key=lambda row: _mean(again[row["trial"]]))  # ties: validation's order
    return next(iter(ranked(rows, method, metric=metric, constraints=constraints)), None)


def _mean(values: Mapping[int, float]) -> float:
    return statistics.fmean(values.values())
