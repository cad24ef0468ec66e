"""Do importances rank parameters in their true order? Asked of simulated studies, whose surface is known.

A parameter's true importance is its first-order Sobol index: the share of the variance over all
ranges that it explains by itself (Saltelli et al. 2010), which is what fANOVA estimates from few
noisy trials.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, sobol_indices, spearmanr, uniform

from analysis.hyperparameters.importance import importances
from analysis.study import Study

Floats = npt.NDArray[np.float64]
POINTS = 1024  # a power of two, as Sobol's sequence asks for


@dataclass(frozen=True, kw_only=True)
class Order:
    """In how many studies the truly most important parameter came first; a share with its 95 % interval."""

    studies: int  # that gave importances
    silent: int  # that gave a reason instead
    first: int
    low: float  # Wilson's interval of the share
    high: float
    correlation: float  # Spearman's of all parameters with the truth, mean over studies

    @property
    def share(self) -> float:
        """Of the studies that gave importances; NaN of none."""
        return self.first / self.studies if self.studies else math.nan


def first_order(surface: Callable[[Floats], Floats], names: Sequence[str]) -> dict[str, float]:
    """Return the true importances of a surface from positions [n, d] in the cube to values [n], by parameter."""
    indices = sobol_indices(
        func=lambda places: surface(places.T),
        n=POINTS,
        dists=[uniform()] * len(names),
        rng=np.random.default_rng(0),
    )
    return dict(zip(names, np.maximum(indices.first_order, 0).tolist(), strict=True))


def check_order(studies: Iterable[Study], method: str, *, truth: Mapping[str, float]) -> Order:
    """Compare a method's importances in simulated studies with the true ones, by parameter.

    Parameters without a range in the study do not count.
    """
    first = count = silent = 0
    correlations = []
    for study in studies:
        result = importances(study, method)
        if not result.parameters:
            silent += 1
            continue
        count += 1
        true = [truth[name] for name in result.top]
        first += true[0] == max(true)
        if len(true) > 1:
            means = [one.mean for one in result.parameters]
            correlations.append(float(spearmanr(means, true).statistic))
    ends = binomtest(first, count).proportion_ci(method="wilson") if count else (math.nan, math.nan)
    return Order(
        studies=count,
        silent=silent,
        first=first,
        low=float(ends[0]),
        high=float(ends[1]),
        correlation=float(np.mean(correlations)) if correlations else math.nan,
    )
