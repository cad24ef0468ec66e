"""The kinds of stages: a class for each `kind` of `recipe.STAGES`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tune_kd.recipe import Stage
from tune_kd.training.stages.base import StageKind
from tune_kd.training.stages.distill import DistillKind
from tune_kd.training.stages.prune import PruneKind
from tune_kd.training.stages.quantize import QuantizeKind
from tune_kd.training.stages.transform import TransformKind

STAGE_KINDS: dict[str, Callable[[Any, Path | None], StageKind]] = {
    "distill": DistillKind,
    "prune": PruneKind,
    "quantize": QuantizeKind,
    "transform": TransformKind,
}


def stage_kind(stage: Stage, *, code: Path | None = None) -> StageKind:
    """Return how a stage is carried out; `code` is the folder of a user's own files."""
    return STAGE_KINDS[stage.kind](stage, code)
