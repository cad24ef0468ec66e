"""A method's search trials over its parameters, as plain data to draw: one, two or all at a time.

Values are the validation metric after a trial's last epoch, a fraction; of a stopped trial this is
an early one, which its status tells. Trials without a value are left out.
"""

from dataclasses import dataclass
from typing import Any

from analysis.hyperparameters.importance import Importances
from analysis.hyperparameters.ranges import SearchPoint, ranges, search_points
from analysis.study import Study


@dataclass(frozen=True, kw_only=True)
class SlicePoint:
    """A trial over one parameter."""

    trial: str
    repeat: int
    status: str
    x: Any
    value: float


@dataclass(frozen=True, kw_only=True)
class PairPoint:
    """A trial in the plane of two parameters."""

    trial: str
    repeat: int
    status: str
    x: Any
    y: Any
    value: float


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The plane of a method's two most important parameters; `x` names the most important one."""

    method: str
    x: str
    y: str
    points: tuple[PairPoint, ...]


@dataclass(frozen=True, kw_only=True)
class ParallelRow:
    """A trial as a line over all parameters: their values in the order of the ranges, and the metric."""

    trial: str
    repeat: int
    status: str
    values: tuple[Any, ...]
    value: float


def slices(study: Study, method: str) -> dict[str, tuple[SlicePoint, ...]]:
    """Of each parameter of a method, in the order of its ranges, the trials over it."""
    points = _scored_points(study, method)
    return {
        name: tuple(
            SlicePoint(
                trial=point.trial,
                repeat=point.repeat,
                status=point.status,
                x=point.values[name],
                value=value,
            )
            for point, value in points
        )
        for name in ranges(study, method)
    }


def pair(study: Study, importances: Importances) -> Pair | None:
    """Return the plane of the two parameters that matter most by these importances; None where there are not two."""
    if len(importances.top) < 2:
        return None
    first, second = importances.top[:2]
    points = tuple(
        PairPoint(
            trial=point.trial,
            repeat=point.repeat,
            status=point.status,
            x=point.values[first],
            y=point.values[second],
            value=value,
        )
        for point, value in _scored_points(study, importances.method)
    )
    return Pair(method=importances.method, x=first, y=second, points=points)


def parallel_rows(study: Study, method: str) -> list[ParallelRow]:
    """Return a method's trials as lines, in the order of the study's rows."""
    return [
        ParallelRow(
            trial=point.trial,
            repeat=point.repeat,
            status=point.status,
            values=tuple(point.values.values()),
            value=value,
        )
        for point, value in _scored_points(study, method)
    ]


def _scored_points(study: Study, method: str) -> list[tuple[SearchPoint, float]]:
    points = search_points(study, method)
    return [(point, point.value) for point in points if point.value is not None]
