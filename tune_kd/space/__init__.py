"""Search spaces: methods with the ranges of their values, found by name or file."""

from tune_kd.recipe import Optimizer
from tune_kd.space.distributions import choice, integer, log_uniform, range_text, uniform
from tune_kd.space.method import Config, Method
from tune_kd.space.methods import kd_methods, prune_methods, quantized_methods
from tune_kd.space.search_space import SearchSpace, Training, plain_fields

__all__ = [
    "Config",
    "Method",
    "Optimizer",
    "SearchSpace",
    "Training",
    "choice",
    "integer",
    "kd_methods",
    "log_uniform",
    "plain_fields",
    "prune_methods",
    "quantized_methods",
    "range_text",
    "uniform",
]
