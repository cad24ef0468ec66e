"""Channels or single weights out of the network."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from tune_kd.compress import pruning
from tune_kd.recipe import Prune
from tune_kd.training import context
from tune_kd.training.report import EpochReport
from tune_kd.training.stages.base import Resume, Run, change_network


@dataclass(frozen=True)
class PruneKind:
    """Carries out `Prune`, in place."""

    stage: Prune
    code: Path | None = None  # the folder of a user's own files
    has_own_state = False

    def run(
        self, run: Run, model: nn.Module, *, resume: Resume | None
    ) -> Iterator[tuple[EpochReport, nn.Module]]:
        """Prune, one report."""
        pruning.prune(model, self.stage, sample=run.sample)
        new_model = context.place(model, run.ctx, run.recipe.compute)
        yield change_network(run, model, new_model)

    def rebuild(
        self, model: nn.Module, state: Mapping[str, Tensor], *, sample: Tensor
    ) -> nn.Module:
        """Return the network with the shapes of the state."""
        pruning.reshape(model, state)
        return model
