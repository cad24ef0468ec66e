"""Search spaces: methods with the ranges of their values, found by name or file."""

from tune_kd.space.methods import kd_methods, prune_methods, quantised_methods
from tune_kd.space.search_space import (
    Config,
    Method,
    SearchSpace,
    choice,
    integer,
    log_uniform,
    plain_fields,
    shown,
    uniform,
)

__all__ = [
    "Config",
    "Method",
    "SearchSpace",
    "choice",
    "integer",
    "kd_methods",
    "log_uniform",
    "plain_fields",
    "prune_methods",
    "quantised_methods",
    "shown",
    "uniform",
]
