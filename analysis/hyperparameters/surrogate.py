"""A Gaussian process over the trials of one method: what it predicts, how surely, and whether it can.

Matérn 5/2 with a length scale for each feature, and noise: what one training's luck adds. The mean
of a prediction is of the surface below the noise, and so is its standard error.
"""

import warnings
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import GroupKFold, cross_val_predict

Floats = npt.NDArray[np.float64]
# Tukey's: values further below the lower quartile than so many interquartile ranges count as there.
FENCE = 1.5
FOLDS = 5  # each fits the scales anew: with those of all trials, pure noise seems predicted as well


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """A fitted process, in the units of the values that it was given."""

    explained: float  # share of the values' variance that is predicted of left-out settings; <= 1
    _process: GaussianProcessRegressor = field(repr=False)
    _mean: float
    _scale: float

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Means [n] and standard errors [n] at features [n, d]."""
        means, deviations = self._process.predict(features, return_std=True)
        noise = self._process.kernel_.k2.noise_level  # scikit-learn adds it to the variance
        below = np.sqrt(np.maximum(deviations**2 - noise, 0))
        return means * self._scale + self._mean, below * self._scale


def fit(features: Floats, values: Floats) -> Surrogate | None:
    """Fit to features [n, d] with values [n]; None where values or settings do not differ.

    One training that came to nothing would set the scale of all others, so values far below the
    rest are raised to Tukey's fence.
    """
    low, high = np.quantile(values, [0.25, 0.75])
    clipped = np.maximum(values, low - FENCE * (high - low))
    mean, scale = float(clipped.mean()), float(clipped.std())
    groups = np.unique(features, axis=0, return_inverse=True)[1]  # a setting that was tried again
    if scale == 0 or groups.max() == 0:
        return None
    targets = (clipped - mean) / scale
    process = _process(features.shape[1])
    folds = GroupKFold(min(FOLDS, int(groups.max()) + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a scale at its bound: does not matter
        predictions = cross_val_predict(process, features, targets, groups=groups, cv=folds)
        process.fit(features, targets)
    explained_share = 1 - float(np.mean((targets - predictions) ** 2))
    return Surrogate(explained=explained_share, _process=process, _mean=mean, _scale=scale)


def _process(dimensions: int) -> GaussianProcessRegressor:
    scales = Matern(np.full(dimensions, 0.7), (0.1, 10), nu=2.5)
    kernel = ConstantKernel(1.0, (0.01, 100)) * scales + WhiteKernel(0.1, (1e-3, 2))
    return GaussianProcessRegressor(kernel, random_state=0)
