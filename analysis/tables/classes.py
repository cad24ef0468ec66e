"""Beyond one number: calibration, agreement with the teacher, likeness of mistakes, single classes."""

import numpy as np
import pandas as pd

from analysis import confusion, selection
from analysis.comparison import stats
from analysis.formatting import NONE, Table, gap, label, mean_sd, metric_name, points, with_notes
from analysis.selection import BASELINE
from analysis.study import Study
from analysis.summary import kd_winner
from tune_kd.evaluation.confusion_matrix import Floats, Matrix, divide
from tune_kd.metrics import number

# What a method is compared in: heading, column or "similarity", scale, whether lower is better.
QUALITIES = (
    ("Calibration error, %", "test_ece", 100.0),
    ("Agreement with the teacher, %", "test_agreement", 100.0),
    ("Class similarity", "similarity", 1.0),
)
SAID = (
    "Calibration error (ECE, 15 bins): lower is better. Agreement: the share of test {places} for "
    "which student and teacher predict the same class. Class similarity: Spearman's correlation "
    "between the mistakes of student and teacher (each pair of true and wrong class, as a share of "
    "the true one): it says whether they confuse the same classes, not why, and not that the teacher "
    "is the cause. Differences are to the tuned baseline, repeat by repeat, with a 95 % interval that is "
    "not adjusted for how many there are, and does not hold the choice of test {places}."
)
LONG, SHOWN = 20, 10  # more classes than this: so many of the best and of the worst changes


def qualities(study: Study, method: str, name: str) -> dict[int, float]:
    """Return a tuned method's calibration error, agreement or class similarity by repeat, mean over its seeds."""
    if name != "similarity":
        return study.tuned_values(method, name)
    teacher = confusion.of_teacher(study)
    if teacher is None:
        return {}
    means = {}
    for repeat, runs in study.runs_by_repeat(method, "best").items():
        matrices = [cells for row in runs.values() if (cells := confusion.matrix(row)) is not None]
        likeness = [confusion.similarity(cells, teacher) for cells in matrices]
        values = stats.summarise(value for value in likeness if value is not None)
        if values:
            means[repeat] = values.mean
    return means


def calibration(study: Study) -> Table:
    """Return the test metric, calibration error, agreement and class similarity, each with its difference."""
    title = "Calibration and similarity to the teacher (test split)"
    methods = [m for m in study.methods if study.tuned_values(m)]
    values = {(m, name): qualities(study, m, name) for m in methods for _, name, _ in QUALITIES}
    if not any(values.values()):
        return title, ""
    column = f"{metric_name(study.test_metric)}, %"
    teacher_row = selection.teacher(study.rows, "confirm")
    teacher_value = number(teacher_row, study.test_metric)
    rows = [
        {
            "Method": "teacher",
            column: mean_sd(stats.summarise([] if teacher_value is None else [teacher_value])),
            **_of_teacher(number(teacher_row, "test_ece")),
        }
    ]
    sentences = []
    for method in methods:
        summary = stats.summarise(study.tuned_values(method).values())
        row = {"Method": label(method), column: mean_sd(summary)}
        phrases = []
        for heading, name, scale in QUALITIES:
            method_values = values[method, name]
            row[heading] = mean_sd(stats.summarise(method_values.values()), scale=scale)
            if BASELINE in methods:
                change = (
                    stats.paired(method_values, values[BASELINE, name])
                    if method != BASELINE
                    else None
                )
                row[f"Δ {_first(heading)}"] = gap(change, scale=scale)
                if change:
                    phrases.append(f"{_first(heading)}: {_direction(change)}")
        rows.append(row)
        if phrases:
            sentences.append(f"**{method}** against the baseline: {'; '.join(phrases)}.")
    frame = pd.DataFrame(rows).fillna(NONE)
    note = SAID.format(places="pixels" if study.dense else "images")
    return title, with_notes(frame, note, items=sentences)


def _of_teacher(error: float | None) -> dict[str, str]:
    return {QUALITIES[0][0]: mean_sd(stats.summarise([] if error is None else [error]))}


def _first(heading: str) -> str:
    """Return a heading without its unit, as it stands within a sentence."""
    text = heading.split(",")[0]
    return text[0].lower() + text[1:]


def _direction(change: stats.Estimate) -> str:
    """On which side of 0 the whole interval lies."""
    if change.n < stats.MIN_REPEATS or change.low is None or change.high is None:
        return "too few repeats to say"
    if change.low > 0:
        return "higher"
    return "lower" if change.high < 0 else "not settled"


def classes(study: Study) -> Table:
    """Each class: teacher, and the students that the baseline and the best method with distillation recommend.

    Means over seeds of accuracy, or intersection over union where every pixel has a label. Of more
    than twenty classes the ten that gained most and the ten that lost most.
    """
    quality = "IoU" if study.dense else "accuracy"
    title = f"Classes: {quality}, % (test split)"
    best = kd_winner(study)
    models = [m for m in (BASELINE, best) if m and m in study.methods]
    by_method = {m: confusion.of_method(study, m) for m in models}
    means = {
        label(m): _mean(study, list(cells.values())) for m, cells in by_method.items() if cells
    }
    teacher_counts = confusion.of_teacher(study)
    if teacher_counts is not None:
        means = {"teacher": _mean(study, [teacher_counts]), **means}
    if not means or len({len(values) for values in means.values()}) != 1:
        return title, ""
    counts = {"teacher": 1, **{label(m): len(cells) for m, cells in by_method.items()}}
    size = len(next(iter(means.values())))
    frame = pd.DataFrame({"Class": _names(study, size)})
    for name, values in means.items():
        frame[f"{name} (n = {counts[name]})"] = [_percent(value) for value in values]
    base = means.get(label(BASELINE))
    change = means[best] - base if best in means and base is not None else None
    if change is not None:
        frame["Difference, pp"] = [NONE if np.isnan(c) else points(c) for c in change]
        if size > LONG:
            order = [int(at) for at in np.argsort(-change) if not np.isnan(change[at])]
            order_ends = order[:SHOWN] + order[SHOWN:][-SHOWN:]
            frame = frame.iloc[order_ends]
            title = f"{title[:-1]}; of {size} the {SHOWN} best and the {SHOWN} worst changes)"
    elif size > LONG:
        frame = frame.head(LONG)
        title = f"{title[:-1]}; of {size} the first {LONG})"
    note = (
        "Recommended students, means over n seeds; single classes were not tested for differences."
    )
    return title, with_notes(frame, note)


def _mean(study: Study, matrices: list[Matrix]) -> Floats:
    """Mean over seeds of each class's value; NaN for a class that no seed has."""
    values = np.stack([confusion.by_class(cells, dense=study.dense) for cells in matrices])
    is_present = ~np.isnan(values)
    total = np.where(is_present, values, 0.0).sum(axis=0)
    return divide(total, is_present.sum(axis=0))


def _names(study: Study, size: int) -> list[str]:
    names = study.class_names
    return names if len(names) == size else [str(at) for at in range(size)]


def _percent(value: float) -> str:
    return NONE if np.isnan(value) else f"{value * 100:.2f}"
