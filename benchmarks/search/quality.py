"""How much a recording carries: seeds' noise, what a surface predicts, and what rungs say of the end."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.model_selection import GroupKFold

from benchmarks.search.surface import Floats, Process, Surface

FOLDS = 10


def row(
    method: str, rows: pd.DataFrame, surface: Surface, images: Mapping[str, int]
) -> dict[str, Any]:
    """Return a method's line: accuracies in percent, differences in points, rank correlations."""
    last = rows[rows["epoch"] == surface.epochs].sort_values(["number", "seed"])
    both = images["validation"] + images["test"]
    weight = images["validation"] / both
    true = (weight * last["val_accuracy"] + (1 - weight) * last["test_accuracy"]).to_numpy(float)
    numbers = last["number"].to_numpy()
    predicted = _cross_validate(surface.points, true, numbers, images=both)
    good = true >= np.median(true)
    by_number = pd.Series(true).groupby(numbers)
    spreads = by_number.std()[by_number.mean() >= np.median(true)].dropna()
    values: dict[str, Any] = {
        "method": method,
        "configurations": len(set(numbers.tolist())),
        "optimum": 100 * surface.optimum(),
        "default": 100
        * float(surface.true_accuracy(surface.cube.point(surface.settings[0])[None])[0]),
        "sd_seeds": 100 * float(np.sqrt((spreads**2).mean())),
        "rmse": 100 * float(np.sqrt(((true - predicted)[good] ** 2).mean())),
        "rank": float(spearmanr(true, predicted).statistic),
        "rank_good": float(spearmanr(true[good], predicted[good]).statistic),
    }
    end = _validation(rows, surface.epochs)
    better = end >= np.median(end)
    for epoch in [e for e in surface.validation if e < surface.epochs]:
        early = _validation(rows, epoch)
        values[f"epoch_{epoch}"] = float(spearmanr(early, end).statistic)
        values[f"epoch_{epoch}_good"] = float(spearmanr(early[better], end[better]).statistic)
    return values


def columns(surface: Surface) -> dict[str, str]:
    """Headings of the rows."""
    headings = {
        "method": "method",
        "configurations": "configurations",
        "optimum": "optimum, %",
        "default": "default settings, %",
        "sd_seeds": "sd over seeds, better half",
        "rmse": "error of the surface, better half",
        "rank": "rank correlation of the surface",
        "rank_good": "the same, better half",
    }
    for epoch in [e for e in surface.validation if e < surface.epochs]:
        headings[f"epoch_{epoch}"] = f"rank correlation of epoch {epoch} with {surface.epochs}"
        headings[f"epoch_{epoch}_good"] = "the same, better half"
    return headings


def _cross_validate(points: Floats, true: Floats, numbers: np.ndarray, *, images: int) -> Floats:
    """Return what surfaces say that have not seen a configuration: cross-validated, whole configurations."""
    shares = np.empty(len(true))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for train, left_out in GroupKFold(FOLDS).split(points, groups=numbers):
            process = Process(points[train], true[train], images=images)
            shares[left_out] = process.shares(points[left_out])
    return shares


def _validation(rows: pd.DataFrame, epoch: int) -> Floats:
    """Return the validation accuracy of the first seed of each configuration at an epoch."""
    first = rows[(rows["seed"] == 0) & (rows["epoch"] == epoch)].sort_values("number")
    return first["val_accuracy"].to_numpy(float)
