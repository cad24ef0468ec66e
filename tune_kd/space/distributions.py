"""Ranges of hyperparameters: Optuna's distributions, in words, as numbers and as columns."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)


def uniform(low: float, high: float) -> FloatDistribution:
    """Return a number in [low, high]."""
    return FloatDistribution(low, high)


def log_uniform(low: float, high: float) -> FloatDistribution:
    """Return a number in [low, high], uniform in its logarithm; low > 0."""
    return FloatDistribution(low, high, log=True)


def integer(low: int, high: int) -> IntDistribution:
    """Return a whole number in [low, high]."""
    return IntDistribution(low, high)


def choice(*values: Any) -> CategoricalDistribution:
    """One of the values (numbers, strings or booleans)."""
    return CategoricalDistribution(values)


def range_text(distribution: BaseDistribution) -> str:
    """Return a range in words.

    >>> range_text(log_uniform(1, 20)), range_text(choice("a", "b"))
    ('1 .. 20 log', 'a | b')
    """
    if isinstance(distribution, FloatDistribution | IntDistribution):
        log = " log" if distribution.log else ""
        return f"{distribution.low:g} .. {distribution.high:g}{log}"
    assert isinstance(distribution, CategoricalDistribution)
    return " | ".join(str(value) for value in distribution.choices)


def bounds(ranges: Mapping[str, BaseDistribution]) -> dict[str, tuple[float, float, bool]]:
    """Low, high and whether on a log scale, of the ranges that are numbers."""
    return {
        name: (d.low, d.high, d.log)
        for name, d in ranges.items()
        if isinstance(d, FloatDistribution | IntDistribution)
    }


def to_json(distribution: BaseDistribution) -> str:
    """Return a range as Optuna writes it."""
    return str(distribution_to_json(distribution))


def column_type(distribution: BaseDistribution) -> str:
    """Return the Arrow type of a sampled value's column."""
    if isinstance(distribution, FloatDistribution):
        return "double"
    if isinstance(distribution, IntDistribution):
        return "int64"
    assert isinstance(distribution, CategoricalDistribution)
    kinds = {type(value) for value in distribution.choices}
    names = {bool: "bool", int: "int64", float: "double"}
    return names.get(kinds.pop(), "string") if len(kinds) == 1 else "string"
