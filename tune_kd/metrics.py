"""Every metric once: unit, direction, digits and heading. Rows hold fractions, tables percent."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a measured column is read and printed; `higher_is_better` None means neither."""

    heading: str
    unit: str = ""
    digits: int = 2
    scale: float = 1.0  # printed = stored * scale
    higher_is_better: bool | None = None

    @property
    def timed(self) -> bool:
        """Whether it depends on the machine and on what else runs there."""
        return self.unit in ("ms", "1/s")


def _share(heading: str) -> Metric:
    return Metric(heading=heading, unit="%", digits=2, scale=100.0, higher_is_better=True)


METRICS: dict[str, Metric] = {
    "val_accuracy": _share("Validation accuracy"),
    "val_miou": _share("Validation mIoU"),
    "val_loss": Metric(heading="Validation loss", digits=4, higher_is_better=False),
    "test_accuracy": _share("Test accuracy"),
    "test_loss": Metric(heading="Test loss", digits=4, higher_is_better=False),
    "test_miou": _share("Test mIoU"),
    "test_ece": Metric(
        heading="Test calibration error", unit="%", scale=100.0, higher_is_better=False
    ),
    "test_agreement": _share("Test agreement with the teacher"),
    "num_params": Metric(heading="Parameters", digits=0, higher_is_better=False),
    "nonzero_params": Metric(heading="Nonzero parameters", digits=0, higher_is_better=False),
    "size_mb": Metric(heading="Size", unit="MB", digits=3, higher_is_better=False),
    "flops": Metric(heading="FLOPs", digits=0, higher_is_better=False),
    "latency_ms": Metric(heading="Latency", unit="ms", digits=3, higher_is_better=False),
    "latency_ms_sd": Metric(heading="Latency sd", unit="ms", digits=3),
    "compiled_latency_ms": Metric(
        heading="Latency, compiled", unit="ms", digits=3, higher_is_better=False
    ),
    "compiled_latency_ms_sd": Metric(heading="Latency sd, compiled", unit="ms", digits=3),
    "throughput_per_s": Metric(heading="Throughput", unit="1/s", digits=0, higher_is_better=True),
}


def shown(name: str, value: float) -> str:
    """A value in its metric's unit and digits, without the unit.

    >>> shown("test_accuracy", 0.98765), shown("num_params", 78042.0)
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
