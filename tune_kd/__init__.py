"""Hyperparameter search for knowledge distillation: does it help here, by how much, and how?

    import tune_kd

    study = tune_kd.run_search("digits_kd", trials=20)
    study.best_trial("response").params

Importing it loads neither torch nor Ray: what needs them is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_kd.api import Study, Trial, evaluate_checkpoint, load_study, run_search
    from tune_kd.errors import SearchAborted, UsageError
    from tune_kd.space import (
        Method,
        SearchSpace,
        choice,
        integer,
        kd_methods,
        log_uniform,
        prune_methods,
        quantized_methods,
        uniform,
    )

__version__ = "0.1.0"

_HOMES = {
    "tune_kd.api": ("Study", "Trial", "evaluate_checkpoint", "load_study", "run_search"),
    "tune_kd.errors": ("SearchAborted", "UsageError"),
    "tune_kd.space": (
        "Method",
        "Optimizer",
        "SearchSpace",
        "Training",
        "choice",
        "integer",
        "kd_methods",
        "log_uniform",
        "prune_methods",
        "quantized_methods",
        "uniform",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Method",
    "Optimizer",
    "SearchAborted",
    "SearchSpace",
    "Study",
    "Training",
    "Trial",
    "UsageError",
    "choice",
    "evaluate_checkpoint",
    "integer",
    "kd_methods",
    "load_study",
    "log_uniform",
    "prune_methods",
    "quantized_methods",
    "run_search",
    "uniform",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'tune_kd' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Return the public names, for completion."""
    return sorted([*globals(), *_HOME])
