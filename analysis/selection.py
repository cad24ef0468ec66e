"""Rows by what they are: trials of a phase, teacher, default settings, roles, sizes. Pure functions.

Rows are those of `tune_kd.study.results.read_trials`. Which trial stands for a method is decided in
tune_kd/study/selection.py, on validation and never on test.
"""

from collections.abc import Iterable, Mapping, Sequence

from tune_kd.metrics import number
from tune_kd.study.results import Row, rank_trials
from tune_kd.study.trial_names import confirm_trial, measure_trial

BASELINE = "no_kd"  # the method with beta = gamma = 0


def trials(rows: Iterable[Row], phase: str, method: str | None = None) -> list[Row]:
    """Return the last stage's row of each trial of a phase (and a method), in the order of the rows."""
    last: dict[str, Row] = {}
    for row in rows:
        if row["phase"] == phase and method in (None, row["method"]):
            previous_row = last.get(row["trial"])
            if previous_row is None or (row["stage"] or 0) >= (previous_row["stage"] or 0):
                last[row["trial"]] = row
    return list(last.values())


def best(
    rows: Iterable[Row], method: str, *, top: int = 1, metric: str = "val_accuracy"
) -> list[Row]:
    """Return the `top` finished search trials of a method, best first; fewer where fewer have finished.

    Ranked by `metric`, more is better, ties by the lower validation loss, then by number.
    """
    return rank_trials(rows, method, metric=metric)[:top]


def default_trials(rows: Iterable[Row], method: str) -> dict[int, Row]:
    """Return the finished trial with the default settings (number 0) of each repeat of a method, by repeat."""
    rows_by_repeat = {
        row["repeat"]: row
        for row in trials(rows, "search", method)
        if row.get("origin") == "default" and row["status"] == "finished"
    }
    return dict(sorted(rows_by_repeat.items()))


def roles(row: Mapping[str, object]) -> set[str]:
    """Return what a confirming run is a run of: its repeat's best, the default settings, the recommended.

    >>> sorted(roles({"origin": "best+default, begun from a file"}))
    ['best', 'default']
    """
    return set(str(row.get("origin") or "").split(",")[0].split("+")) - {""}


def values(runs: Mapping[int, Row], metric: str) -> dict[int, float]:
    """Return a metric by seed, of the runs that have it."""
    numbers = {seed: number(row, metric) for seed, row in runs.items()}
    return {seed: value for seed, value in numbers.items() if value is not None}


def teacher(rows: Iterable[Row], phase: str) -> Row | None:
    """Return the teacher's finished row of a phase: teacher (validation), measure or confirm (test)."""
    name = {"measure": measure_trial("teacher"), "confirm": confirm_trial("teacher")}.get(phase)
    teacher_rows = [
        row
        for row in trials(rows, phase, "")
        if row["status"] == "finished" and name in (None, row["trial"])
    ]
    return teacher_rows[-1] if teacher_rows else None


def student_footprint(rows: Iterable[Row]) -> Row | None:
    """Return the measured student: parameters, size, FLOPs, latency."""
    name = measure_trial("student")
    return next((r for r in trials(rows, "measure", "") if r["trial"] == name), None)


SIZES = ("num_params", "nonzero_params", "size_mb", "flops")
COMPRESSING = ("Prune", "Quantize")  # names of stages


def latest_sizes(rows: Iterable[Row]) -> Row:
    """Of the stages' rows of one trial: the last known value of each size."""
    sizes: Row = {}
    for row in rows:
        sizes |= {name: row[name] for name in SIZES if number(row, name) is not None}
    return sizes


def compresses(rows: Iterable[Row], *names: str) -> bool:
    """Whether a trial's rows have a stage that prunes or quantizes, or one of the named stages."""
    return any(row.get("stage_name") in (names or COMPRESSING) for row in rows)


def before_and_after(
    rows: Sequence[Row], name: str, *, shared: Row | None = None
) -> tuple[Row | None, Row | None]:
    """Return a trial before and after its stages `name` (Prune or Quantize): rows with their sizes settled.

    Before is the row just before the first such stage, `shared` where it is the trial's first.
    After is the last one before another kind of compression begins: what was trained after it
    counts. (None, None) where the trial has no such stage.
    """
    names = [row.get("stage_name") for row in rows]
    if name not in names:
        return None, None
    first = names.index(name)
    others = [at for at, n in enumerate(names) if at > first and n in COMPRESSING and n != name]
    end = min(others, default=len(rows))
    before = rows[first - 1] if first else shared
    return (
        {**before, **latest_sizes(rows[:first])} if before else None,
        {**rows[end - 1], **latest_sizes(rows[first:end])},
    )
