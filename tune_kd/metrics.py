"""Every metric once: unit, direction, digits and heading. Rows hold fractions, tables percent."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

TASKS = ("classification", "segmentation")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a measured column is read and printed; `higher_is_better` None means neither."""

    heading: str
    unit: str = ""
    digits: int = 2
    scale: float = 1.0  # printed = stored * scale
    higher_is_better: bool | None = None
    objective: bool = False  # whether a search can aim at it
    leading: bool = False  # whether it may be the first objective, which ranks and stops trials
    # the kinds of task that it leads, where a space names no other
    default_of: tuple[str, ...] = ()
    tasks: tuple[str, ...] = TASKS  # the kinds of task that it has a meaning for

    @property
    def timed(self) -> bool:
        """Whether it depends on the machine and on what else runs there."""
        return self.unit in ("ms", "1/s")


def _share(heading: str, **flags: Any) -> Metric:
    return Metric(heading=heading, unit="%", digits=2, scale=100.0, higher_is_better=True, **flags)


def _scored(name: str, of: Callable[..., Metric], heading: str, **flags: Any) -> dict[str, Metric]:
    """Return a metric of predictions, measured on validation in a search, and on test in confirming."""
    tasks = {"tasks": flags["tasks"]} if "tasks" in flags else {}
    return {
        f"val_{name}": of(f"Validation {heading}", objective=True, **flags),
        f"test_{name}": of(f"Test {heading}", **tasks),
    }


def _loss(heading: str, **flags: Any) -> Metric:
    return Metric(heading=heading, digits=4, higher_is_better=False, **flags)


def _cost(heading: str, **flags: Any) -> Metric:
    return Metric(heading=heading, higher_is_better=False, **flags)


METRICS: dict[str, Metric] = {
    **_scored("accuracy", _share, "accuracy", leading=True, default_of=("classification",)),
    **_scored(
        "miou", _share, "mIoU", leading=True, tasks=("segmentation",), default_of=("segmentation",)
    ),
    **_scored("loss", _loss, "loss"),
    "test_ece": _cost("Test calibration error", unit="%", scale=100.0),
    "test_agreement": _share("Test agreement with the teacher"),
    "num_params": _cost("Parameters", digits=0, objective=True),
    "nonzero_params": _cost("Nonzero parameters", digits=0, objective=True),
    "size_mb": _cost("Size", unit="MB", digits=3, objective=True),
    "flops": _cost("FLOPs", digits=0, objective=True),
    "latency_ms": _cost("Latency", unit="ms", digits=3, objective=True),
    "latency_ms_sd": Metric(heading="Latency sd", unit="ms", digits=3),
    "compiled_latency_ms": _cost("Latency, compiled", unit="ms", digits=3),
    "compiled_latency_ms_sd": Metric(heading="Latency sd, compiled", unit="ms", digits=3),
    "throughput_per_s": Metric(
        heading="Throughput", unit="1/s", digits=0, higher_is_better=True, objective=True
    ),
}
OBJECTIVES = tuple(name for name, metric in METRICS.items() if metric.objective)
LEADING = tuple(name for name, metric in METRICS.items() if metric.leading)

SHARES = tuple(name.removeprefix("val_") for name in LEADING)  # fractions of right predictions


def default_objective(task: str) -> str:
    """Return the metric that ranks the trials of a task of this kind, where a space names no other.

    >>> default_objective("classification"), default_objective("segmentation")
    ('val_accuracy', 'val_miou')
    """
    return next(name for name in LEADING if task in METRICS[name].default_of)


def test_twin(name: str) -> str:
    """Return the name of a validation metric on the test split.

    >>> test_twin("val_miou")
    'test_miou'
    """
    return f"test_{name.removeprefix('val_')}"


def format_value(name: str, value: float) -> str:
    """Return a value in its metric's unit and digits, without the unit.

    >>> format_value("test_accuracy", 0.98765), format_value("num_params", 78042.0)
    ('98.77', '78,042')
    """
    metric = METRICS[name]
    return f"{value * metric.scale:,.{metric.digits}f}"


def number(row: Mapping[str, object] | None, name: str) -> float | None:
    """Return a row's number; None where it is null, infinite, not a number or missing, or without a row.

    >>> number({"val_loss": 0.5}, "val_loss"), number({"val_loss": float("inf")}, "val_loss")
    (0.5, None)
    """
    value = (row or {}).get(name)
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
