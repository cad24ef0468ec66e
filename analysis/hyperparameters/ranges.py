"""The ranges that a method was searched over, and its search trials as points in them.

A position is where a value stands in its range, from 0 to 1, in the logarithm where the range is
logarithmic, so that equal steps of positions are what the sampler took as equal steps. Whole
numbers and choices stand in the middle of cells of equal width.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    json_to_distribution,
)

from analysis import selection
from analysis.study import Study
from tune_kd.metrics import number

Ranges = Mapping[str, BaseDistribution]


@dataclass(frozen=True, kw_only=True)
class SearchPoint:
    """A search trial: its sampled values by parameter, and the validation metric that it reached."""

    trial: str
    number: int  # within its method and repeat
    repeat: int
    status: str  # finished, stopped, failed
    epochs: int  # trained
    values: Mapping[str, Any]  # in the order of the ranges
    value: float | None  # a fraction, of its last epoch; None where there is none

    @property
    def final(self) -> float | None:
        """The value of a trial that ran to the end; None of one that did not."""
        return self.value if self.status == "finished" else None


def ranges(study: Study, method: str) -> dict[str, BaseDistribution]:
    """Return what a method was searched over, by parameter, as the sampler took it; pinned ones are left out.

    From the manifest. A range of one value is none.
    """
    texts = study.manifest.methods[method].distributions
    distributions = {name: json_to_distribution(text) for name, text in texts.items()}
    return {
        name: distribution
        for name, distribution in distributions.items()
        if not distribution.single()
    }


def search_points(study: Study, method: str) -> list[SearchPoint]:
    """Return a method's search trials of all repeats in the order of its rows, failed ones as well.

    Trials that lack a sampled value are left out: they tell nothing about it.
    """
    method_ranges = ranges(study, method)
    points = []
    for row in selection.trials(study.rows, "search", method):
        cells = {name: row.get(f"config.{name}") for name in method_ranges}
        if any(value is None for value in cells.values()):
            continue
        values = {name: _sampled_value(d, cells[name]) for name, d in method_ranges.items()}
        points.append(
            SearchPoint(
                trial=row["trial"],
                number=row["number"],
                repeat=row.get("repeat") or 0,
                status=row["status"],
                epochs=row.get("epochs") or 0,
                values=values,
                value=number(row, study.metric),
            )
        )
    return points


def _sampled_value(distribution: BaseDistribution, value: Any) -> Any:
    """Return the sampled value of a column: choices of several kinds are written as text, others as JSON."""
    if isinstance(distribution, CategoricalDistribution) and isinstance(value, str):
        texts = (c if isinstance(c, str) else json.dumps(c) for c in distribution.choices)
        by_text = dict(zip(texts, distribution.choices, strict=True))
        return by_text.get(value, value)
    return value


def position(distribution: BaseDistribution, value: Any) -> float:
    """Where a value stands in its range: 0 at the lower end, 1 at the upper.

    Raises ValueError for a value that is none of a range's choices.

    >>> position(FloatDistribution(0.01, 1.0, log=True), 0.1), position(IntDistribution(1, 4), 1)
    (0.5, 0.125)
    >>> position(CategoricalDistribution(["mean", "max"]), "max")
    0.75
    """
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.to_internal_repr(value) + 0.5) / len(distribution.choices)
    low, high, log = _ends(distribution)
    x = math.log(value) if log else float(value)
    return min(1.0, max(0.0, (x - low) / (high - low)))


def value_at(distribution: BaseDistribution, place: float) -> Any:
    """Return the value at a position; the nearest whole number or choice where a range has only these.

    >>> round(value_at(FloatDistribution(0.01, 1.0, log=True), 0.5), 9)
    0.1
    >>> value_at(IntDistribution(1, 4), 0.3), value_at(CategoricalDistribution(["a", "b"]), 1.0)
    (2, 'b')
    """
    if isinstance(distribution, CategoricalDistribution):
        count = len(distribution.choices)
        return distribution.choices[min(count - 1, int(place * count))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not 0 < place < 1:  # exactly, where a logarithm would round
        return distribution.low if place <= 0 else distribution.high
    low, high, log = _ends(distribution)
    x = low + float(place) * (high - low)
    number = math.exp(x) if log else x
    if distribution.step is not None and not log:
        steps = round((number - distribution.low) / distribution.step)
        number = distribution.low + steps * distribution.step
    value = min(distribution.high, max(distribution.low, number))
    return round(value) if isinstance(distribution, IntDistribution) else value


def positions(ranges: Ranges, values: Mapping[str, Any]) -> list[float]:
    """Return the positions of a trial's values in the order of the ranges."""
    return [position(distribution, values[name]) for name, distribution in ranges.items()]


def values_at(ranges: Ranges, places: Sequence[float]) -> dict[str, Any]:
    """Return the values at positions in the order of the ranges."""
    pairs = zip(ranges.items(), places, strict=True)
    return {name: value_at(distribution, place) for (name, distribution), place in pairs}


def _ends(distribution: BaseDistribution) -> tuple[float, float, bool]:
    """Return the ends that positions 0 and 1 stand for, in the logarithm where `log`: cells of steps have width."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    half = (distribution.step or 0) / 2
    low, high = distribution.low - half, distribution.high + half
    if distribution.log:
        return math.log(low), math.log(high), True
    return low, high, False
