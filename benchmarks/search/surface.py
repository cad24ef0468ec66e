"""What a configuration that nobody trained would have reached: surfaces fitted to recorded curves.

A method has a Gaussian process (Matérn 5/2, a length scale for each value, noise by likelihood) on
the logit of each quantity: its *true* accuracy, that is of validation and test images together
after the last epoch, and its *validation* accuracy at each epoch where policies look. What a trial
shows at these epochs is the validation surface plus the residuals of one recorded run, all epochs
of the same run, drawn from the recorded configurations that are nearest; so noise is as large as it
was there, and as much alike from epoch to epoch. Validation values are whole images of the recorded
split. The difference of the two surfaces is what a split does to like configurations alike, which
no repetition takes away.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from optuna.distributions import BaseDistribution
from scipy.special import expit, logit
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from tune_kd.space import Method, distributions

Floats = npt.NDArray[np.float64]

NEAREST = 8  # recorded configurations whose runs give a trial its residuals
NUM_DRAWS = 20_000  # random configurations among which the optimum is looked for
OPTIMUM = 0.999  # the quantile of their true accuracies that counts as the optimum


class Cube:
    """Sampled values as points of the unit cube, log ranges in their logarithm.

    >>> from tune_kd.space import log_uniform, uniform
    >>> cube = Cube({"lr": log_uniform(0.01, 1.0), "dropout": uniform(0.0, 0.5)})
    >>> cube.point({"lr": 0.1, "dropout": 0.5}).round(3).tolist()
    [0.5, 1.0]
    >>> {name: round(value, 3) for name, value in cube.config(np.array([0.5, 1.0])).items()}
    {'lr': 0.1, 'dropout': 0.5}
    """

    def __init__(self, ranges: Mapping[str, BaseDistribution]) -> None:
        """Ranges that are numbers."""
        self.names = list(ranges)
        limits = [distributions.bounds(ranges)[name] for name in self.names]
        self._log = np.array([log for _, _, log in limits])
        self._low = self._scale(np.array([low for low, _, _ in limits]))
        self._high = self._scale(np.array([high for _, high, _ in limits]))

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self.names)

    def _scale(self, values: Floats) -> Floats:
        values = np.asarray(values, dtype=float)
        return np.where(self._log, np.log(np.where(self._log, values, 1.0)), values)

    def point(self, config: Mapping[str, Any]) -> Floats:
        """Return a configuration in [0, 1]^d."""
        values = np.array([float(config[name]) for name in self.names])
        return (self._scale(values) - self._low) / (self._high - self._low)

    def config(self, point: Floats) -> dict[str, float]:
        """Return the configuration of a point of [0, 1]^d, never outside its ranges."""
        values = self._low + np.clip(point, 0.0, 1.0) * (self._high - self._low)
        values = np.where(self._log, np.exp(values), values)
        low, high = (np.where(self._log, np.exp(side), side) for side in (self._low, self._high))
        return dict(zip(self.names, np.clip(values, low, high).tolist(), strict=True))


class Process:
    """A Gaussian process on the logit of shares, each of so many images; it gives the mean's share."""

    def __init__(self, points: Floats, shares: Floats, *, images: int) -> None:
        """`points` [n, d] of the unit cube, `shares` [n] in [0, 1]."""
        targets = logits(shares, images)
        self._middle, self._spread = float(targets.mean()), float(targets.std()) or 1.0
        width = np.full(points.shape[1], 0.7)
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(width, (0.1, 20.0), nu=2.5)
        process = GaussianProcessRegressor(kernel + WhiteKernel(0.1, (1e-4, 2.0)), random_state=0)
        with warnings.catch_warnings():  # a value without effect has a length scale at its bound
            warnings.simplefilter("ignore", ConvergenceWarning)
            process.fit(points, (targets - self._middle) / self._spread)
        self._kernel, self._points, self._weights = process.kernel_.k1, points, process.alpha_
        self.noise = self._spread * float(np.sqrt(process.kernel_.k2.noise_level))  # in logits

    def logits(self, points: Floats) -> Floats:
        """Return the mean at points [n, d]: [n]."""
        return self._kernel(points, self._points) @ self._weights * self._spread + self._middle

    def shares(self, points: Floats) -> Floats:
        """Return the same as shares in [0, 1]."""
        return np.asarray(expit(self.logits(points)))


def logits(shares: Floats, images: int) -> Floats:
    """Return the logit, finite where all or none of the images are right: half an image is added."""
    return np.asarray(logit(np.clip(shares, 0.5 / images, 1 - 0.5 / images)))


@dataclass(frozen=True, kw_only=True)
class Surface:
    """One method's response to its sampled values."""

    cube: Cube
    settings: tuple[dict[str, Any], ...]  # the default ones first, then the published ones
    ranges: Mapping[str, BaseDistribution]
    epochs: int
    val_images: int
    truth: Process
    validation: Mapping[int, Process]  # by epoch
    points: Floats  # [runs, d], of the recorded runs
    residuals: Floats  # [runs, epochs looked at], in logits
    numbers: npt.NDArray[np.int64]  # [runs], of their configurations

    def true_accuracy(self, points: Floats) -> Floats:
        """Return the mean over seeds and images at points [n, d]: [n], fractions."""
        return self.truth.shares(points)

    def optimum(self) -> float:
        """Return the best true accuracy in the ranges, but for the luckiest thousandth."""
        points = np.random.default_rng(0).random((NUM_DRAWS, len(self.cube)))
        parts = [self.true_accuracy(part) for part in np.array_split(points, 20)]
        return float(np.quantile(np.concatenate(parts), OPTIMUM))

    def curve(self, point: Floats, random: np.random.Generator) -> dict[int, float]:
        """Return the validation accuracy that one trial at a point [d] shows, by epoch looked at."""
        distances = ((self.points - point) ** 2).sum(1)
        _, first = np.unique(self.numbers, return_index=True)
        near = self.numbers[first][np.argsort(distances[first], kind="stable")[:NEAREST]]
        run = random.choice(np.flatnonzero(self.numbers == random.choice(near)))
        accuracies = {}
        for place, (epoch, process) in enumerate(self.validation.items()):
            share = float(expit(process.logits(point[None])[0] + self.residuals[run, place]))
            accuracies[epoch] = round(share * self.val_images) / self.val_images
        return accuracies


def fit(
    rows: pd.DataFrame, method: Method, *, looked_at: Iterable[int], images: Mapping[str, int]
) -> Surface:
    """Return the surface of one method's recorded rows, seen at some epochs and the last."""
    cube = Cube(method.ranges)
    epochs = int(rows["epoch"].max())
    last = rows[rows["epoch"] == epochs].sort_values(["number", "seed"])
    records = last[[f"config.{name}" for name in cube.names]].rename(columns=lambda c: c[7:])
    points = np.array([cube.point(record) for record in records.to_dict("records")])
    val, test = (last[f"{split}_accuracy"].to_numpy(float) for split in ("val", "test"))
    both = images["validation"] + images["test"]
    pooled = (val * images["validation"] + test * images["test"]) / both
    by_epoch = rows.set_index(["number", "seed", "epoch"])["val_accuracy"].sort_index()
    validation, residuals = {}, []
    for epoch in sorted({*looked_at, epochs}):
        shares = by_epoch.xs(epoch, level="epoch").to_numpy(float)
        process = Process(points, shares, images=images["validation"])
        residuals.append(logits(shares, images["validation"]) - process.logits(points))
        validation[epoch] = process
    return Surface(
        cube=cube,
        settings=tuple(method.settings()),
        ranges=method.ranges,
        epochs=epochs,
        val_images=images["validation"],
        truth=Process(points, pooled, images=both),
        validation=validation,
        points=points,
        residuals=np.stack(residuals, axis=1),
        numbers=last["number"].to_numpy(np.int64),
    )
