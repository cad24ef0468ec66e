"""Which trials no other beats: Pareto fronts and constraints over values by name.

Pure functions of mappings; directions are those of `tune_kd.metrics`.
"""

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune_kd.errors import UsageError, unknown
from tune_kd.metrics import METRICS, number

Values = Mapping[str, Any]

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_FORM = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\S+)\s*")


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A bound on a metric, in the unit of its column."""

    name: str
    sign: str
    bound: float

    def excess(self, values: Values) -> float:
        """How far values are beyond the bound, 0 or less where they keep it or were not measured.

        >>> parse("size_mb <= 3").excess({"size_mb": 3.5})
        0.5
        """
        value = number(values, self.name)
        if value is None:
            return 0.0
        return value - self.bound if self.sign.startswith("<") else self.bound - value

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {self.bound:g}"


def parse(text: str) -> Constraint:
    """Return a constraint as a space writes it; UsageError for another form or an unknown metric.

    >>> print(parse("size_mb <= 3"))
    size_mb <= 3
    """
    match = _FORM.fullmatch(text)
    try:
        name, sign, bound = match.groups() if match else ("", "", "")
        constraint = Constraint(name=name, sign=sign, bound=float(bound))
    except ValueError:
        raise UsageError(
            f"constraint {text!r}: write METRIC <= NUMBER or METRIC >= NUMBER"
        ) from None
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    return constraint


def violations(values: Values, constraints: Iterable[Constraint]) -> list[Constraint]:
    """Return the constraints that values break; what was not measured breaks nothing.

    >>> [str(c) for c in violations({"size_mb": 4.0}, [parse("size_mb <= 3"), parse("flops < 1")])]
    ['size_mb <= 3']
    """
    result = []
    for constraint in constraints:
        value = number(values, constraint.name)
        if value is not None and not _HOLDS[constraint.sign](value, constraint.bound):
            result.append(constraint)
    return result


def front(points: Sequence[Values], objectives: Sequence[str]) -> list[int]:
    """Return indices of the points that no other dominates; a point that lacks an objective is left out.

    One dominates another if it is at least as good in every objective and better in one. The result
    is ordered by the first objective, best first.

    >>> front([{"val_accuracy": 0.9, "size_mb": 2.0}, {"val_accuracy": 0.9, "size_mb": 3.0},
    ...        {"val_accuracy": 0.8, "size_mb": 1.0}], ["val_accuracy", "size_mb"])
    [0, 2]
    """
    costs = {at: cost for at, p in enumerate(points) if (cost := _costs(p, objectives)) is not None}
    indices: list[int] = []
    # in this order no later point dominates an earlier one
    for at in sorted(costs, key=lambda at: (costs[at], at)):
        if not any(_dominates(costs[other], costs[at]) for other in indices):
            indices.append(at)
    return indices


def _costs(values: Values, objectives: Sequence[str]) -> tuple[float, ...] | None:
    """Values where less is better; None where one is missing."""
    costs = []
    for name in objectives:
        value = number(values, name)
        if value is None:
            return None
        costs.append(value if METRICS[name].higher_is_better is False else -value)
    return tuple(costs)


def _dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))
