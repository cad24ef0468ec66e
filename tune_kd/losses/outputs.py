"""What losses are computed from, and how a loss and its options are found by name."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tune_kd.errors import UsageError, unknown


@dataclass(frozen=True)
class Outputs:
    """What a network says of a batch: scores [B, C, ...] and its features by level, [B, C'] or [B, C', ...].

    The student's features are already projected to the teacher's channels.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


def mean(each: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean where `valid` holds, 0 where it holds nowhere, without asking the device."""
    if valid is None:
        return each.mean()
    return torch.where(valid, each, 0.0).sum() / valid.sum().clamp(min=1)


def check_options(name: str, function: Callable[..., Tensor], options: Mapping[str, Any]) -> None:
    """Raise UsageError where a loss has no option of one of these names."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    allowed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in allowed:
            raise unknown("option", option, allowed, where=f"loss {name} has")


def as_scalar(value: Any, name: str, kind: str) -> Tensor:
    """Return a user's loss as a 0-dim float32 tensor; UsageError where it is anything but one number."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(f"'{name}' returned {got}; a {kind} loss returns a tensor of one number")
    return value.reshape(()).float()
