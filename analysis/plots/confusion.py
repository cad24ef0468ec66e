"""Confusion matrices of the test split: the teacher's and each method's, rows divided by their sums."""

import numpy as np
from matplotlib.figure import Figure

from analysis import confusion
from analysis.formatting import label
from analysis.study import Study
from tune_kd.evaluation import confusion_matrix
from tune_kd.evaluation.confusion_matrix import Matrix


def matrices(study: Study) -> dict[str, Matrix]:
    """Return counts [K, K] by model: the teacher's, and each method's recommended student's added up over seeds."""
    counts: dict[str, Matrix] = {}
    teacher_counts = confusion.of_teacher(study)
    if teacher_counts is not None:
        counts["teacher (n = 1)"] = teacher_counts
    for method in study.methods:
        cells = list(confusion.of_method(study, method).values())
        if cells and len({matrix.shape for matrix in cells}) == 1:
            counts[f"{label(method)} (n = {len(cells)})"] = np.sum(cells, axis=0)
    return counts


def draw_confusion(study: Study) -> Figure | None:
    """Return a panel for each model, None where no matrix is known."""
    counts = matrices(study)
    if not counts:
        return None
    title = f"{study.name}: confusion on the test split, % of the true class"
    return confusion_matrix.draw(counts, names=study.class_names, title=title)
