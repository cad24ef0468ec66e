"""Where validation is as good as at the best: the flat region of a method, and a robust setting inside it.

A Gaussian process (Rasmussen and Williams 2006, chapter 2; Matérn 5/2, a length scale for each
parameter, noise) is fitted to the final values of all repeats over positions in the ranges. The
region is where its mean lies within one standard error of its best mean (the one-standard-error
rule of Breiman et al. 1984, section 3.4.3: what is as good as the best, as far as one can tell), or
within the margin that the study calls no difference, if that is more. The robust setting is the
point of the region nearest to the region's centre of mass: small changes in any direction stay
inside.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from scipy.stats import qmc

from analysis.hyperparameters import surrogate
from analysis.hyperparameters.ranges import (
    Ranges,
    position,
    positions,
    ranges,
    search_points,
    value_at,
)
from analysis.study import Study

MIN_FINISHED = 15  # trials, below which nothing is said
# Share of the variance of left-out trials that must be predicted. Of pure noise it is in 3 to 7 % of
# studies; where parameters make half of the variance, in 92 % with 40 trials and 40 to 50 % with 16.
MIN_EXPLAINED = 0.1
UNEXPLAINED = "{n} trials have finished, from which their parameters' effect on validation cannot be predicted"
POINTS = 2048  # a power of two, as Sobol's sequence asks for
ENOUGH = 256  # points inside the region before it is described
ZOOMS = 6  # boxes that are looked at, one inside the other
STEPS = 101  # along one parameter

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Span:
    """What a flat region spans of one parameter, in its own units."""

    parameter: str
    robust: Any  # its value in the robust setting
    low: Any = None  # of all points of the region; None where the range is one of choices
    high: Any = None
    alone_low: Any = None  # where all others stay at the robust setting
    alone_high: Any = None
    choices: tuple[Any, ...] = ()  # that the region has, where the range is one of choices


@dataclass(frozen=True, kw_only=True)
class FlatRegion:
    """The flat region around a method's best; values and deviations are fractions."""

    method: str
    spans: tuple[Span, ...]
    best: float  # the highest mean that is predicted
    best_sd: float  # its standard error, that of the mean without the noise of a training
    tolerance: float  # below `best`, down to where the region goes
    value: float  # predicted at the robust setting
    sd: float
    explained: float  # share of the variance of left-out trials that is predicted
    n: int  # finished trials

    @property
    def robust(self) -> dict[str, Any]:
        """The robust setting."""
        return {span.parameter: span.robust for span in self.spans}


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """A method's flat region, or the reason why there is none to be told."""

    method: str
    region: FlatRegion | None = None
    reason: str = ""


def landscape(study: Study, method: str) -> Landscape:
    """Return the flat region of a method around its best; the same at every call.

    None with a reason: fewer than 15 finished trials, no range, or a surrogate that predicts
    left-out trials hardly better than their mean does.
    """
    method_ranges = ranges(study, method)
    points = [point for point in search_points(study, method) if point.final is not None]
    values = np.array([point.final for point in points], dtype=np.float64)
    if not method_ranges:
        return Landscape(method=method, reason="no parameter was searched")
    if len(points) < MIN_FINISHED:
        text = f"{len(points)} trials have finished; a flat region needs at least {MIN_FINISHED}"
        return Landscape(method=method, reason=text)
    places = np.array([positions(method_ranges, point.values) for point in points])
    model = surrogate.fit(_features(places, method_ranges), values)
    if model is None or model.explained < MIN_EXPLAINED:
        return Landscape(method=method, reason=UNEXPLAINED.format(n=len(points)))
    margin = study.margin
    region = _describe(_Surface(model, method_ranges), places, method=method, margin=margin)
    return Landscape(method=method, region=region)


class _Surface:
    """A fitted surrogate over positions in ranges; whole numbers and choices stand where they can."""

    def __init__(self, model: surrogate.Surrogate, ranges: Ranges) -> None:
        self.model, self.ranges = model, ranges

    def settle(self, places: Floats) -> Floats:
        """Positions [n, d] of values that exist, nearest to these."""
        existing_places = places.copy()
        for at, distribution in enumerate(self.ranges.values()):
            if not _continuous(distribution):
                values = (value_at(distribution, place) for place in places[:, at].tolist())
                existing_places[:, at] = [position(distribution, value) for value in values]
        return existing_places

    def predict(self, places: Floats) -> tuple[Floats, Floats]:
        """Means and standard errors [n] at positions [n, d]."""
        return self.model.predict(_features(self.settle(places), self.ranges))

    def mean(self, places: Floats) -> Floats:
        """Means [n] at positions [n, d]."""
        return self.predict(places)[0]


@dataclass(frozen=True, kw_only=True)
class _Region:
    """Points of the part of a region that is seen from its best point, which is the first."""

    places: Floats  # [n, d]
    bar: float  # the lowest mean that is inside


def _find(surface: _Surface, places: Floats, *, margin: float) -> _Region:
    """Look for the region in smaller and smaller boxes, until enough points of one are inside it.

    A region of a few parameters' narrow intervals is a tiny share of all that can be sampled.
    """
    low, high = np.zeros(places.shape[1]), np.ones(places.shape[1])
    best, bar, inside = places[surface.mean(places).argmax()], 0.0, places[:1]
    for _ in range(ZOOMS):
        sobol_places = qmc.Sobol(len(low), seed=0).random(POINTS) * (high - low) + low
        candidates = surface.settle(np.vstack([best, sobol_places]))
        means, deviations = surface.predict(candidates)
        top = int(means.argmax())
        best, bar = candidates[top], float(means[top] - max(deviations[top], margin))
        inside = candidates[means >= bar]
        inside = np.vstack([best, inside[_is_reachable(surface, best, inside, bar=bar)]])
        if len(inside) > ENOUGH:
            break
        room = 0.1 * (high - low)
        low, high = (
            np.maximum(low, inside.min(axis=0) - room),
            np.minimum(high, inside.max(axis=0) + room),
        )
    return _Region(places=inside, bar=bar)


def _is_reachable(
    surface: _Surface, best: Floats, places: Floats, *, bar: float
) -> npt.NDArray[np.bool_]:
    """Whether the straight way from the best point to each place stays inside; choices change first."""
    is_visible = np.ones(len(places), dtype=np.bool_)
    is_choice = [isinstance(d, CategoricalDistribution) for d in surface.ranges.values()]
    for share in (0.25, 0.5, 0.75):
        path = best + share * (places - best)
        path[:, is_choice] = places[:, is_choice]
        is_visible &= surface.mean(path) >= bar
    return is_visible


def _robust(surface: _Surface, region: _Region) -> Floats:
    """Return the region's centre of mass, where that is inside; else the point of the region nearest to it."""
    middle = _features(region.places, surface.ranges).mean(axis=0)
    distances = np.linalg.norm(_features(region.places, surface.ranges) - middle, axis=1)
    nearest = region.places[distances.argmin()]
    is_choice = [isinstance(d, CategoricalDistribution) for d in surface.ranges.values()]
    centre = surface.settle(np.where(is_choice, nearest, region.places.mean(axis=0))[None])
    return np.asarray(centre[0] if surface.mean(centre)[0] >= region.bar else nearest)


def _describe(surface: _Surface, places: Floats, *, method: str, margin: float) -> FlatRegion:
    """Return the region in the parameters' own units."""
    region = _find(surface, places, margin=margin)
    robust = _robust(surface, region)
    means, deviations = surface.predict(np.stack([region.places[0], robust]))
    return FlatRegion(
        method=method,
        spans=tuple(_span(surface, region, robust, at) for at in range(len(robust))),
        best=float(means[0]),
        best_sd=float(deviations[0]),
        tolerance=float(means[0]) - region.bar,
        value=float(means[1]),
        sd=float(deviations[1]),
        explained=surface.model.explained,
        n=len(places),
    )


def _span(surface: _Surface, region: _Region, robust: Floats, at: int) -> Span:
    """Return what the region spans of the parameter number `at`."""
    name, distribution = list(surface.ranges.items())[at]
    value = value_at(distribution, robust[at])
    along = region.places[:, at]
    if isinstance(distribution, CategoricalDistribution):
        inside = {value_at(distribution, place) for place in along.tolist()}
        choices = tuple(choice for choice in distribution.choices if choice in inside)
        return Span(parameter=name, choices=choices, robust=value)
    alone = _alone(surface, region.bar, robust, at)
    ends = (value_at(distribution, place) for place in (along.min(), along.max(), *alone))
    low, high, alone_low, alone_high = ends
    return Span(
        parameter=name, low=low, high=high, alone_low=alone_low, alone_high=alone_high, robust=value
    )


def _alone(surface: _Surface, bar: float, robust: Floats, at: int) -> tuple[float, float]:
    """How far one parameter can go from the robust setting without leaving the region, as positions."""
    grid = np.linspace(0, 1, STEPS)
    places = np.tile(robust, (STEPS, 1))
    places[:, at] = grid
    outside = grid[surface.mean(places) < bar]
    below, above = outside[outside < robust[at]], outside[outside > robust[at]]
    step = grid[1]
    return (
        float(min(below.max() + step, robust[at]) if len(below) else 0.0),
        float(max(above.min() - step, robust[at]) if len(above) else 1.0),
    )


def _features(places: Floats, ranges: Ranges) -> Floats:
    """Return what the surrogate sees of positions [n, d]: numbers as they are, a choice as a one among zeros."""
    columns = []
    for at, distribution in enumerate(ranges.values()):
        if isinstance(distribution, CategoricalDistribution):
            count = len(distribution.choices)
            index = np.minimum((places[:, at] * count).astype(int), count - 1)
            columns.append(np.eye(count)[index])
        else:
            columns.append(places[:, at : at + 1])
    return np.hstack(columns)


def _continuous(distribution: BaseDistribution) -> bool:
    return isinstance(distribution, FloatDistribution) and distribution.step is None
