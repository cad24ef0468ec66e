"""Studies whose surfaces are known: trials drawn from ranges, values computed from positions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, distribution_to_json

from analysis.hyperparameters.ranges import values_at
from analysis.study import Study
from tests.helpers.made_manifest import manifest
from tune_kd.study.storage import Storage
from tune_kd.study.trial_names import search_trial

Row = dict[str, Any]
RANGES: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(0.01, 1.0, log=True),
    "dropout": FloatDistribution(0.0, 0.3),
    "temperature": FloatDistribution(1.0, 20.0, log=True),
}
Surface = Callable[[Sequence[float]], float]


def study(
    rows: Sequence[Row],
    *,
    ranges: Mapping[str, BaseDistribution] = RANGES,
    curves: Mapping[str, Sequence[Row]] | None = None,
    **changes: Any,
) -> Study:
    """A study of these search rows; methods are those that the rows name, all with the same ranges."""
    distributions = {name: distribution_to_json(d) for name, d in ranges.items()}
    methods = {row["method"]: {"distributions": distributions} for row in rows} or {
        "response": {"distributions": distributions}
    }
    usual = {
        "study": "surfaces",
        "methods": methods,
        "rungs": (),
        "config_types": dict.fromkeys(ranges, "double"),
    }
    return Study(
        address="surfaces",
        storage=Storage("/nowhere"),
        manifest=manifest(**(usual | changes)),
        rows=rows,
        curves=curves or {},
    )


def row(method: str, repeat: int, number: int, value: float | None, **values: Any) -> Row:
    """A finished search trial with sampled `values` by parameter."""
    usual = {
        "phase": "search",
        "method": method,
        "repeat": repeat,
        "number": number,
        "stage": 0,
        "trial": search_trial(method, repeat, number),
        "status": "finished",
        "origin": "random",
        "epochs": 15,
        "val_accuracy": value,
        "val_loss": 0.5,
    }
    return usual | {f"config.{name}": v for name, v in values.items()}


def random_rows(  # a surface, and how it is searched
    surface: Surface,
    *,
    method: str = "response",
    repeats: int = 5,
    trials: int = 8,
    noise_sd: float = 0.0,
    seed: int = 0,
    ranges: Mapping[str, BaseDistribution] = RANGES,
) -> list[Row]:
    """Random trials of a method: values of the surface at their positions, with noise."""
    random = np.random.default_rng(seed)
    rows = []
    for repeat in range(repeats):
        for number in range(trials):
            places = random.random(len(ranges)).tolist()
            value = surface(places) + noise_sd * random.standard_normal()
            rows.append(row(method, repeat, number, float(value), **values_at(ranges, places)))
    return rows


def curve(trial: Row, epoch: int, value: float) -> list[Row]:
    """The epoch row of a trial at a rung."""
    return [{"trial": trial["trial"], "stage": 0, "epoch": epoch, "val_accuracy": value}]
