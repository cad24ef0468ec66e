"""Confusion matrices of the test split, true class by row, and what follows from them."""

import math

import numpy as np
import scipy.stats

from analysis import selection
from analysis.study import Study
from tune_kd.evaluation.confusion_matrix import Floats, Matrix, divide, shares
from tune_kd.study.results import Row


def matrix(row: Row | None) -> Matrix | None:
    """Return a row's confusion matrix, int64 [K, K]; None where it has none."""
    cells = (row or {}).get("test_confusion")
    side = math.isqrt(len(cells)) if cells else 0
    if cells is None or side == 0 or side * side != len(cells):
        return None
    return np.asarray(cells, dtype=np.int64).reshape(side, side)


def of_teacher(study: Study) -> Matrix | None:
    """Return the teacher's."""
    return matrix(selection.teacher(study.rows, "confirm"))


def of_method(study: Study, method: str) -> dict[int, Matrix]:
    """Those of the student that a method recommends, by seed."""
    runs = study.runs(study.recommended_trial(method), "recommended")
    matrices = {seed: matrix(rows[-1]) for seed, rows in runs.items()}
    return {seed: cells for seed, cells in matrices.items() if cells is not None}


def by_class(cells: Matrix, *, dense: bool = False) -> Floats:
    """Accuracy of each class (intersection over union where `dense`), float64 [K]; NaN if absent.

    >>> by_class(np.array([[2, 1], [1, 6]])).round(3).tolist()  # 2 of 3 and 6 of 7
    [0.667, 0.857]
    >>> by_class(np.array([[2, 1], [1, 6]]), dense=True).tolist()  # 2 of 4 and 6 of 8
    [0.5, 0.75]
    """
    right = np.diagonal(cells).astype(float)
    totals = cells.sum(axis=1) + (cells.sum(axis=0) - right if dense else 0)
    return divide(right, totals)


def similarity(first: Matrix, second: Matrix) -> float | None:
    """Spearman's correlation of two matrices' mistakes: off the diagonal, rows divided by their sums.

    1: both order the pairs (true class, wrong class) alike by how often they confuse them. None
    where one of them makes no mistake, or makes all equally often.

    >>> a = np.array([[9, 1, 0], [2, 7, 1], [0, 4, 6]])
    >>> round(similarity(a, a), 6)
    1.0
    """
    if first.shape != second.shape:
        return None
    off = ~np.eye(len(first), dtype=bool)
    pair = np.stack([shares(first)[off], shares(second)[off]])
    pair = pair[:, ~np.isnan(pair).any(axis=0)]
    if pair.shape[1] < 2 or np.ptp(pair, axis=1).min() == 0:
        return None
    value = float(scipy.stats.spearmanr(pair[0], pair[1]).statistic)
    return None if math.isnan(value) else value
