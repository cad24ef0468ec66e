"""What a trial reports after each epoch; the worker makes a row of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What `trial.run` yields after each epoch; `state` is what the next epoch goes on from.

    A measurement of a finished model is one report with epoch 0. `state` maps names to tensors.
    """

    stage: int
    stage_name: str
    epoch: int
    step: int
    last: bool
    values: Mapping[str, Any]  # lr, losses and metrics by column name
    seconds: float
    state: Mapping[str, Any] = field(repr=False, default_factory=dict)
    arrays: Mapping[str, Any] = field(repr=False, default_factory=dict)  # of pictures, by name
